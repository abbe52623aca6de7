"""keep_shared_momentum: each worker keeps its momentum of the shared part, compared with a reference."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.hooks import LocalSGDHook
from resist_mm.partition import Assignment, PartitionSampler
from resist_mm.rounds import Engine, ExchangeRefused, LocalSGD, ResIST
from resist_mm.rounds.staging import StagedExchange
from tests.test_hooks.averages import run_all
from tests.test_hooks.reference import simulate_with_average
from tests.test_rounds.trained import FRESH, block_of, spoil, values_of
from tests.toy import ToyData, ToyModel

WORKERS, ROUNDS, ITERS, BLOCKS = 3, 5, 2, 6
LR, MOMENTUM = 0.05, 0.9
WHOLE_AFTER, BAD, INTERRUPTED = (2, ROUNDS - 1), (1, 2), (1, 2)  # a round and a worker
TRAVELS = 'momentum of blocks travels'


class Case(NamedTuple):
    """How training is; hands are dealt as the sampler does from ``min_blocks``, after a warm-up."""

    min_blocks: int | None = 0  # None: local SGD
    warmup_rounds: int = 0
    interval: int = 1
    bad: bool = False
    interrupted: bool = False

    def engine(self, model: ToyModel, keeps: bool = True) -> Engine:
        protocol: Any = LocalSGD()
        if self.min_blocks is not None:
            protocol = ResIST(self.min_blocks, self.warmup_rounds, activation_scale=1.0)
        return Engine(
            model,
            torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM),
            protocol,
            momentum_restart_interval=self.interval,
            bad_numbers='drop' if self.bad else 'stop',
            keep_shared_momentum=keeps,
        )

    def dealt(self, round_index: int) -> Assignment:
        if self.min_blocks is None or round_index < self.warmup_rounds:
            return Assignment.full(WORKERS, BLOCKS)
        return PartitionSampler(BLOCKS, WORKERS, self.min_blocks).sample(round_index)


CASES = {
    'sole holders': Case(),
    'shared holders, interrupted': Case(min_blocks=4, interrupted=True),
    TRAVELS: Case(min_blocks=3, interval=100),
    'warm-up': Case(min_blocks=2, warmup_rounds=2),
    'local SGD': Case(min_blocks=None),
    'a bad worker': Case(min_blocks=4, bad=True),
}
Found = tuple[list[dict[str, Tensor]], list[float]]


def _batch(worker: int, iteration: int) -> tuple[Tensor, Tensor]:
    data = ToyData(4)
    generator = torch.Generator().manual_seed(100 * worker + iteration)
    return (data.images + torch.randn(data.images.shape, generator=generator)).double(), data.labels


def _model() -> ToyModel:
    model = ToyModel()
    model.init_weights()
    return model.double()


def _rounds(name: str, keeps: bool = True) -> Found:
    """After each exchange, weights and momentum of this worker; and the bytes of each."""
    case, model, found, sent = CASES[name], _model(), [], []
    engine = case.engine(model, keeps)
    (optimizer,) = engine.states[1].optimizers
    for index in range(ROUNDS):
        if engine.in_sync:
            engine.begin_round()
        for iteration in range(index * ITERS, (index + 1) * ITERS):
            images, labels = _batch(dist.get_rank(), iteration)
            optimizer.zero_grad()
            model(images, labels, mode='loss')['loss'].backward()
            optimizer.step()
        if case.bad and (index, dist.get_rank()) == BAD:
            spoil(engine, 'everything', float('nan'))
        if case.interrupted and index == INTERRUPTED[0]:
            fails = patch.object(StagedExchange, 'get_ready', side_effect=MemoryError)
            with (
                fails if dist.get_rank() == INTERRUPTED[1] else nullcontext(),
                pytest.raises((MemoryError, ExchangeRefused)),
            ):
                engine.exchange()
        sent.append(engine.exchange(index in WHOLE_AFTER).total)
        found.append({key: value for key, value in values_of(engine).items() if 'running_' not in key})
    return found, sent


@pytest.fixture(scope='module')
def kept() -> dict[str, list[Found]]:
    """By case and worker."""
    return dict(zip(CASES, run_all(WORKERS, [(_rounds, (name,)) for name in CASES]), strict=True))


@pytest.mark.parametrize('name', CASES)
def test_weights_and_momentum_are_those_of_the_reference(kept: dict[str, list[Found]], name: str):
    case = CASES[name]
    weights = {key: p.detach().clone() for key, p in _model().named_parameters()}
    own: list[dict[str, Tensor]] = [{} for _ in range(WORKERS)]
    is_own = (lambda key: block_of(key) is None) if case.min_blocks is not None else (lambda key: True)
    travelling: dict[str, Tensor] = {}
    momenta: list[bool] = []
    for index in range(ROUNDS):
        its = range(index * ITERS, (index + 1) * ITERS)
        batches = [[_batch(worker, it) for it in its] for worker in range(WORKERS)]
        bad = {0: [BAD[1]]} if case.bad and index == BAD[0] else {}
        how: dict[str, Any] = dict(bad=bad, own=own, is_own=is_own, velocity=travelling)
        weights, _ = simulate_with_average(
            weights, batches, [case.dealt(index)], ITERS, LR, MOMENTUM, case.interval > 1, **how
        )
        if index in WHOLE_AFTER:
            for of_worker in own:
                of_worker.clear()
        for worker, (found, _) in enumerate(kept[name]):
            momentum = {key.removeprefix(FRESH): m for key, m in found[index].items() if key.startswith(FRESH)}
            expected = {**travelling, **own[worker]} if case.interval > 1 else own[worker]
            if case.interval == 1:
                assert momentum.keys() == own[worker].keys()
            for key, value in momentum.items():
                torch.testing.assert_close(value, expected[key], rtol=0, atol=1e-10)
            for key, value in found[index].items():
                if not key.startswith(FRESH):
                    torch.testing.assert_close(value, weights[key], rtol=0, atol=1e-10)
            momenta.append(any(is_own(key) for key in momentum))
    # what a worker keeps begins anew with the whole model, and for the bad one after its round
    fresh = {(index, worker) for index in WHOLE_AFTER for worker in range(WORKERS)} | (
        {BAD} if case.bad else set()
    )
    assert momenta == [(i, worker) not in fresh for i in range(ROUNDS) for worker in range(WORKERS)]


def test_bytes(kept: dict[str, list[Found]]):
    """None more than without; where momentum of blocks travels, that of the shared part is saved."""
    without, travelling = run_all(WORKERS, [(_sent_without, (n,)) for n in ('sole holders', TRAVELS)])
    assert kept['sole holders'][0][1] == without[0]
    shared = sum(p.numel() for name, p in _model().named_parameters() if block_of(name) is None)
    for index in range(ROUNDS):
        # every worker sends all pieces but its own, and receives as many means
        saved = 2 * (WORKERS - 1) * 8 * shared
        assert travelling[0][index] - kept[TRAVELS][0][1][index] == pytest.approx(saved, abs=8 * WORKERS**2)


def test_without_a_restart_there_is_nothing_to_keep():
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for made, options in ((Engine, (model, optimizer, LocalSGD())), (LocalSGDHook, ())):
        with pytest.raises(ValueError, match=r'keep_shared_momentum=True .* momentum_restart_interval=None'):
            made(*options, momentum_restart_interval=None, keep_shared_momentum=True)


def _sent_without(name: str) -> list[float]:
    return _rounds(name, keeps=False)[1]
