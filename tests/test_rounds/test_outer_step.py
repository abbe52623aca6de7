"""The outer step: compared with torch.optim.SGD, on real workers and in one process."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.analysis.cost import NetworkSize, PartSize, resist_cost
from resist_mm.builders import build_codec
from resist_mm.exchange import ExchangePlan
from resist_mm.partition import Assignment
from resist_mm.rounds import Engine, ExchangeRefused, LocalSGD, OuterStep, ResIST
from resist_mm.rounds.round_start import Remaining
from resist_mm.rounds.staging import StagedExchange
from tests.test_rounds.trained import spoil, train, trained_engine
from tests.toy import ToyModel
from tests.workers import run_workers

WORKERS = 3
DILOCO = dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)
BLOCKS = dict(type='SGD', lr=0.8, momentum=0.6, nesterov=True, blocks=True)
WHOLE_AFTER = (False, True, False, False)
SHARES = [3.0, 2.0, 1.0]
# in the shared part and in a block
FROZEN = ('head.bias', 'backbone.layer3.2.conv1.weight')


class Unequal(ResIST):
    """Workers that have trained different numbers of iterations."""

    def weigh(self, assignment: Assignment) -> Assignment:
        return assignment.weighted(SHARES)


FORMS: dict[str, tuple[Any, dict]] = {
    'shared part': (lambda: ResIST(min_blocks=0, outer=DILOCO), {}),
    'shared holders': (lambda: ResIST(min_blocks=4, outer=BLOCKS), {}),
    'sole holders': (lambda: ResIST(min_blocks=0, outer=BLOCKS), {}),
    'plain momentum': (lambda: ResIST(min_blocks=3, outer={**BLOCKS, 'nesterov': False}), {}),
    'no momentum': (lambda: ResIST(min_blocks=3, outer=dict(type='SGD', lr=0.5, blocks=True)), {}),
    'warm-up': (lambda: ResIST(min_blocks=3, warmup_rounds=2, outer=BLOCKS), {}),
    'local SGD': (lambda: LocalSGD(outer=DILOCO), {}),
    'unequal workers': (lambda: Unequal(blocks=[5, 3, 1], outer=BLOCKS), {}),
    'frozen': (lambda: ResIST(min_blocks=3, outer=BLOCKS), dict(frozen=FROZEN)),
    'a bad worker': (lambda: ResIST(min_blocks=2, outer=BLOCKS), dict(bad_numbers='drop')),
    'compressed': (
        lambda: ResIST(min_blocks=2, outer=DILOCO),
        dict(codec=build_codec(dict(type='topk', share=0.3, error_feedback=True))),
    ),
    'changes at 2 bits': (
        lambda: ResIST(min_blocks=2, outer=dict(type='SGD', lr=0.5)),
        dict(codec=build_codec(dict(type='changes', bits=2))),
    ),
}
COMPRESSED = ('compressed', 'changes at 2 bits')
BAD_ROUND, BAD_WORKER = 2, 1
Values = dict[str, Tensor]


class Round(NamedTuple):
    """What a worker had in a round: values by part, who held what, and the bytes."""

    start: Values
    trained: Values
    after: Values
    momenta: Values
    old: Assignment
    new: Assignment
    total: float


def _values(engine: Engine) -> Values:
    return {part.name: part.flat.flat.clone() for part in engine.parts.all if part.held}


def _momenta(engine: Engine) -> Values:
    return {part.name: m.clone() for part, m in engine.protocol._step.momenta.items()}


def _rounds(form: str) -> list[Round]:
    make, options = FORMS[form]
    engine = trained_engine(make(), **options)
    frozen = {name: p for name, p in engine.parts.model.named_parameters() if name in options.get('frozen', ())}
    unchanged = {name: p.clone() for name, p in frozen.items()}
    found = []
    for index, whole in enumerate(WHOLE_AFTER):
        if engine.in_sync:
            engine.begin_round()
        old, start = engine.assignment, _values(engine)
        train(engine, index)
        trained = _values(engine)
        if engine.bad_rounds.drops and index == BAD_ROUND and dist.get_rank() == BAD_WORKER:
            spoil(engine, 'everything', float('nan'))
        total = engine.exchange(whole).total
        new = engine.assignment or Assignment.full(WORKERS, engine.parts.num_blocks)
        found.append(Round(start, trained, _values(engine), _momenta(engine), old, new, total))
    assert all(torch.equal(p, unchanged[name]) for name, p in frozen.items() if p.numel())
    return found


def _all_forms() -> dict[str, list[Round]]:
    return {form: _rounds(form) for form in FORMS}


@pytest.fixture(scope='module')
def rounds() -> list[dict[str, list[Round]]]:
    """By worker and form."""
    return run_workers(_all_forms, WORKERS)


@pytest.mark.parametrize('form', [form for form in FORMS if form not in COMPRESSED])
def test_every_part_takes_the_step_of_torch(rounds, form):
    outer = FORMS[form][0]().outer
    arguments = {k: v for k, v in outer.items() if k not in ('type', 'blocks')}
    shares = torch.tensor(SHARES if form == 'unequal workers' else [1.0] * WORKERS)
    optimizers: dict[str, torch.optim.SGD] = {}
    for index in range(len(WHOLE_AFTER)):
        of_workers = [of_forms[form][index] for of_forms in rounds]
        old, new = of_workers[0].old, of_workers[0].new
        bad = {BAD_WORKER} if form == 'a bad worker' and index == BAD_ROUND else set()
        for name in sorted(set().union(*(of.trained for of in of_workers))):
            block = int(name.removeprefix('block ')) if name.startswith('block') else None
            holders = [w for w, of in enumerate(of_workers) if name in of.trained]
            start = of_workers[holders[0]].start[name]
            good = [worker for worker in holders if worker not in bad]
            expected = start
            if good:
                trained = torch.stack([of_workers[worker].trained[name] for worker in good], 1)
                expected = (trained * shares[good]).sum(1) / shares[good].sum()
                if block is None or outer.get('blocks'):
                    optimizer = optimizers.setdefault(
                        name, torch.optim.SGD([torch.nn.Parameter(start.clone())], **arguments)
                    )
                    (p,) = optimizer.param_groups[0]['params']
                    p.data.copy_(start)
                    p.grad = start - expected
                    optimizer.step()
                    expected = p.data
            keepers = range(WORKERS) if block is None or (old.is_full and new.is_full) else new.holders(block)
            for worker in keepers:
                torch.testing.assert_close(of_workers[worker].after[name], expected, rtol=0, atol=3e-6)
                if name in optimizers and 'momentum' in arguments:
                    momentum = optimizers[name].state[optimizers[name].param_groups[0]['params'][0]]
                    got = of_workers[worker].momenta[name]
                    torch.testing.assert_close(got, momentum['momentum_buffer'], rtol=0, atol=3e-6)
    assert optimizers, 'no part took a step'


@pytest.mark.parametrize('form', FORMS)
def test_workers_agree_bit_for_bit_on_values_and_momentum(rounds, form):
    for index in range(len(WHOLE_AFTER)):
        for attribute in ('after', 'momenta'):
            known: Values = {}
            for of_forms in rounds:
                for name, value in getattr(of_forms[form][index], attribute).items():
                    assert torch.equal(known.setdefault(name, value), value), (name, index)
        for of_forms in rounds:
            at = of_forms[form][index]
            assert at.momenta.keys() <= at.after.keys(), 'momentum of a block that was handed over is kept'
    momenta = rounds[0][form][-1].momenta
    assert all(torch.count_nonzero(m) for m in momenta.values())


def test_of_compressed_changes_the_outer_step_loses_nothing(rounds):
    """Without momentum it goes its share of the way to what all rounds have changed, once the model is whole."""
    of_workers = [of_forms['changes at 2 bits'] for of_forms in rounds]
    changes = [
        torch.stack(
            [of[index].trained['the shared part'] - of[index].start['the shared part'] for of in of_workers]
        )
        for index in range(2)
    ]
    start, after = (getattr(of_workers[0][i], what)['the shared part'] for i, what in ((0, 'start'), (1, 'after')))
    torch.testing.assert_close(after, start + 0.5 * sum(changes).mean(0), rtol=0, atol=3e-6)
    first = of_workers[0][0].after['the shared part']
    assert (first - (start + 0.5 * changes[0].mean(0))).abs().max() > 1e-3, 'nothing was left out before'


def test_a_block_that_only_a_bad_worker_held_keeps_its_momentum(rounds):
    of_workers = [of_forms['a bad worker'] for of_forms in rounds]
    at = of_workers[0][BAD_ROUND]
    lone = [b for b in range(6) if at.old.holders(b) == (BAD_WORKER,)]
    assert lone, 'the sample shows nothing'
    for block in lone:
        before = of_workers[BAD_WORKER][BAD_ROUND - 1].momenta[f'block {block}']
        for worker in at.new.holders(block):
            assert torch.equal(of_workers[worker][BAD_ROUND].momenta[f'block {block}'], before)


def test_bytes(rounds):
    """The shared part's momentum costs none; a block's goes once to every new holder."""
    sizes = {name: value.numel() for name, value in rounds[0]['shared part'][1].after.items()}
    blocks = [4 * sizes[f'block {block}'] for block in range(6)]
    network = NetworkSize(PartSize(sizes['the shared part']), tuple(PartSize(size // 4) for size in blocks))
    assert rounds[0]['shared part'][0].total == resist_cost(network, WORKERS, 0, samples=1).wire
    first = resist_cost(network, WORKERS, 4, samples=1, outer_momentum=blocks)
    assert rounds[0]['shared holders'][0].total == first.wire
    shared = network.shared.average_bytes(WORKERS)
    for index in range(1, len(WHOLE_AFTER)):
        at = rounds[0]['shared holders'][index]
        plan = ExchangePlan.between(at.old, at.new)
        assert at.total == shared + plan.total(blocks, [2 * size for size in blocks])
    for index in range(len(WHOLE_AFTER)):
        warm_up = rounds[0]['warm-up'][index]
        if warm_up.old.is_full:
            assert warm_up.total == shared + sum(block.average_bytes(WORKERS) for block in network.blocks)
    bad = rounds[0]['a bad worker'][BAD_ROUND]
    plan = ExchangePlan.between(Remaining(bad.old, bad.new, {BAD_WORKER}), bad.new)
    assert bad.total == shared + plan.total(blocks, [2 * size for size in blocks])


def _refused() -> tuple:
    found = []
    for interrupts in (False, True):
        engine = trained_engine(ResIST(min_blocks=2, outer=BLOCKS))
        engine.begin_round()
        train(engine, 0)
        engine.exchange()
        train(engine, 1)
        before = _momenta(engine)
        if interrupts:
            fails = patch.object(StagedExchange, 'get_ready', side_effect=MemoryError)
            with fails if dist.get_rank() == 1 else nullcontext(), pytest.raises((MemoryError, ExchangeRefused)):
                engine.exchange()
            now = _momenta(engine)
            assert now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in now)
        engine.exchange(whole=True)
        found.append((_values(engine), _momenta(engine)))
    return tuple(found)


def test_an_exchange_that_is_rolled_back_leaves_the_momentum():
    for undisturbed, interrupted in run_workers(_refused, 2):
        for expected, got in zip(undisturbed, interrupted, strict=True):
            assert expected.keys() == got.keys()
            assert all(torch.equal(expected[name], got[name]) for name in expected)


@pytest.mark.parametrize(
    'outer',
    [
        DILOCO,
        dict(type='SGD', lr=1.0, momentum=0.5),
        dict(type='SGD', lr=0.3),
        dict(type='SGD', lr=0.3, momentum=0.9, blocks=True),
    ],
)
@pytest.mark.parametrize('protocol', [ResIST, LocalSGD])
def test_one_worker_takes_the_steps_of_torch_to_the_last_bit(protocol, outer):
    with patch.object(dist, 'get_rank', return_value=0):
        _steps_of_one_worker(protocol, outer)


def _steps_of_one_worker(protocol: Any, outer: dict) -> None:
    torch.manual_seed(0)
    model = ToyModel()
    model.init_weights()
    frozen = model.head.bias.requires_grad_(False).detach().clone()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    engine = Engine(model, optimizer, protocol(outer=outer))
    dealt = {p for part in engine.parts.blocks for p in part.flat.params}
    stepped = {
        name: p
        for name, p in model.named_parameters()
        if p.requires_grad and (p not in dealt or outer.get('blocks'))
    }
    twins = {name: torch.nn.Parameter(p.detach().clone()) for name, p in stepped.items()}
    arguments = {k: v for k, v in outer.items() if k not in ('type', 'blocks')}
    reference = torch.optim.SGD(twins.values(), **arguments, foreach=False)
    for index in range(3):
        engine.begin_round()
        train(engine, index)
        for name, p in stepped.items():
            twins[name].grad = twins[name].detach() - p.detach()
        others = {n: p.detach().clone() for n, p in model.named_parameters() if n not in stepped}
        engine.make_whole()
        reference.step()
        assert all(torch.equal(p, twins[name]) for name, p in stepped.items())
        assert all(torch.equal(dict(model.named_parameters())[name], value) for name, value in others.items())
    assert torch.equal(model.head.bias, frozen)


@pytest.mark.parametrize(
    ('outer', 'message'),
    [
        (dict(type='Adam', lr=1), 'outer must be None or dict'),
        (dict(type='SGD'), 'outer must be None or dict'),
        ('SGD', 'outer must be None or dict'),
        (dict(type='SGD', lr=0), 'outer.lr must be a number above 0, got 0'),
        (
            dict(type='SGD', lr=1, momentum=1.0),
            'outer.momentum must be a number of at least 0 and below 1, got 1.0',
        ),
        (dict(type='SGD', lr=1, nesterov=True), 'outer.nesterov=True needs outer.momentum above 0'),
        (dict(type='SGD', lr=1, blocks=1), 'outer.blocks must be True or False, got 1'),
        (dict(type='SGD', lr=1, dampening=0), 'but no dampening'),
    ],
)
def test_arguments(outer, message):
    for protocol in (ResIST, LocalSGD):
        with pytest.raises(ValueError, match=message):
            protocol(outer=outer)


def test_momentum_of_other_parts_is_refused():
    local, dealt = trained_engine(LocalSGD(outer=DILOCO)), trained_engine(ResIST(outer=DILOCO))
    assert isinstance(local.protocol._step, OuterStep)
    with pytest.raises(ValueError, match='the checkpoint has outer momentum of parts with'):
        local.protocol.load_state_dict(dealt.protocol.state_dict())
    local.protocol.load_state_dict({})  # of a run without an outer step
