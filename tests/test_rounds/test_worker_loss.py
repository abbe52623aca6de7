"""on_worker_loss='continue': real workers are killed, and the others have exactly what must come of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.exchange import ExchangePlan, Transport
from resist_mm.partition import Assignment, PartitionSampler
from resist_mm.rounds import Engine, LostWorker, Parts, ResIST, Weights
from resist_mm.rounds.broken_group import leave_group
from resist_mm.rounds.copies import Copies, keepers
from resist_mm.rounds.membership import Membership
from resist_mm.rounds.outer_step import OuterStep
from tests.jobs import run_job
from tests.test_hooks.reference import simulate_with_average
from tests.toy import ToyData, ToyModel
from tests.workers import run_workers

WORKERS, ROUNDS, ITERS, BLOCKS = 4, 5, 2, 6
LR, MOMENTUM, TOLERANCE = 0.05, 0.9, 1e-10


def _batch(number: int, iteration: int) -> tuple[Tensor, Tensor]:
    data = ToyData(4)
    generator = torch.Generator().manual_seed(100 * number + iteration)
    return (data.images + torch.randn(data.images.shape, generator=generator)).double(), data.labels


def _model() -> ToyModel:
    torch.manual_seed(0)
    model = ToyModel()
    model.init_weights()
    return model.double()


def _train(
    number: int, hits: dict[int, tuple[str, int]], options: dict[str, Any], dealing: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Train; ``hits`` says where which worker is killed: a method and at which of its calls, or 'training'.

    Options are those of the engine, ``dealing`` is of ResIST.
    """
    model = _model()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM)
    engine = Engine(model, optimizer, ResIST(min_blocks=1, **dealing or {}), on_worker_loss='continue', **options)
    where, when = hits.get(number, ('', 0))
    owner = {'_deliver': Transport, 'vote': Transport, 'regroup': Membership}.get(where)
    if owner is not None:
        _die_at(owner, where, when)
    if where == 'vote fails':
        _fail_after_vote(when)
    iteration = 0
    patch('resist_mm.rounds.membership.MEET_SEC', 1.5).start()

    def train_one_iteration() -> None:
        nonlocal iteration
        if where == 'training' and iteration == when:
            os.kill(os.getpid(), signal.SIGKILL)
        if where == 'silent' and iteration == when:
            engine.recovery.membership.close()
            time.sleep(6)
        images, labels = _batch(number, iteration)
        optimizer.zero_grad()
        model(images, labels, mode='loss')['loss'].backward()
        optimizer.step()
        iteration += 1

    held = []
    for round_index in range(ROUNDS):
        traffic = engine.run_round(train_one_iteration, ITERS, whole=round_index == ROUNDS - 1)
        held.append(engine.recovery.copies.nbytes)
    engine.recovery.membership.close()
    return dict(
        weights={name: p.detach() for name, p in model.named_parameters()},
        losses=engine.recovery.losses,
        place=(engine.rank, engine.num_workers),
        scale=model.backbone.layer3.scale.item(),
        copies=held,
        traffic=traffic,
    )


def _die_at(owner: type, name: str, when: int) -> None:
    method, calls = getattr(owner, name), 0

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == when:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **kwargs)

    patch.object(owner, name, dies).start()


def _fail_after_vote(when: int) -> None:
    """The vote has succeeded, on the other workers too, but here its operation fails."""
    vote, calls = Transport.vote, 0

    def fails(transport: Transport, ballot: int) -> list[int]:
        nonlocal calls
        calls += 1
        ballots = vote(transport, ballot)
        if calls == when:
            raise RuntimeError('[gloo/transport/tcp/pair.cc:534] Connection closed by peer')
        return ballots

    patch.object(Transport, 'vote', fails).start()


def _expected(
    losses: list[Any],
    hands: Sequence[list[int]] = (),
    outer: dict | None = None,
    keeps: bool = False,
    workers: int = WORKERS,
) -> dict[str, Tensor]:
    """By the reference in one process: in the round of a loss the lost worker does not count.

    ``hands`` are those of each round; ``outer`` is the step of SGD on everything but a block that was lost;
    ``keeps`` says whether workers keep their momentum of the shared part.
    """
    weights = {name: p.detach().clone() for name, p in _model().named_parameters()}
    numbers = list(range(workers))
    momenta: dict[str, Tensor] = {}
    own: list[dict[str, Tensor]] = [{} for _ in range(workers)]
    for round_index in range(ROUNDS):
        lost = {number for loss in losses if loss.round == round_index for number in loss.lost}
        sampler = PartitionSampler(BLOCKS, len(numbers), 1)
        dealt = sampler.sample(round_index, hands[round_index] if hands else None)
        batches = [
            [_batch(n, it) for it in range(round_index * ITERS, (round_index + 1) * ITERS)] for n in numbers
        ]
        bad = {0: [rank for rank, number in enumerate(numbers) if number in lost]}
        before = dict(weights)
        how: dict[str, Any] = dict(bad=bad, own=[own[number] for number in numbers] if keeps else None)
        weights, _ = simulate_with_average(weights, batches, [dealt], ITERS, LR, MOMENTUM, **how)
        for name, mean in weights.items() if outer else ():
            if mean is not before[name]:
                step = before[name] - mean
                momenta[name] = outer['momentum'] * momenta.get(name, 0) + step
                weights[name] = before[name] - outer['lr'] * (step + outer['momentum'] * momenta[name])
        numbers = [number for number in numbers if number not in lost]
    return weights


HITS = {
    'in the first round': {2: ('training', 1)},
    'in training': {2: ('training', 5)},
    'in the transfer': {3: ('_deliver', 2)},
    'in the last vote': {1: ('vote', 6)},  # two in an exchange
    'worker 0': {0: ('training', 4)},
    'two, one after the other': {1: ('training', 3), 2: ('training', 7)},
    'another one while the others meet': {2: ('training', 3), 0: ('regroup', 1)},
}


@pytest.mark.parametrize('name', HITS)
def test_the_others_go_on_with_the_right_numbers(name: str):
    hits = HITS[name]
    keeps = name == 'two, one after the other'
    options = dict(copies_on_host=name == 'in training', keep_shared_momentum=keeps)
    results = run_job(_train, WORKERS, hits, options)
    assert [rank for rank, result in enumerate(results) if result is None] == sorted(hits)
    left = [result for result in results if result is not None]
    losses = left[0]['losses']
    assert sorted(number for loss in losses for number in loss.lost) == sorted(hits)
    expected = _expected(losses, keeps=keeps)
    for rank, result in enumerate(left):
        assert result['losses'] == losses
        assert result['place'] == (rank, len(left))
        assert result['scale'] == pytest.approx(1 / len(left))
        for weight, value in result['weights'].items():
            torch.testing.assert_close(value, expected[weight], rtol=0, atol=TOLERANCE)
            assert torch.equal(value, left[0]['weights'][weight])
    if 'first' not in name:
        assert any(loss.restored for loss in losses)
    # the round that ends with the whole model leaves no copy behind
    assert all(result['copies'][-1] == 0 and result['copies'][0] > 0 for result in left)


def test_unequal_hands_and_the_outer_step_go_on_until_one_worker_is_left():
    outer = dict(type='SGD', lr=0.8, momentum=0.6, nesterov=True, blocks=True)
    hits = {2: ('training', 5), 1: ('training', 7), 3: ('training', 9)}
    results = run_job(_train, WORKERS, hits, {}, dict(blocks=[3, 1, 1, 1], outer=outer))
    assert results[1:] == [None] * 3
    losses = results[0]['losses']
    assert [(loss.round, loss.lost, len(loss.restored)) for loss in losses] == [
        (2, (2,), 1),
        (3, (1,), 1),
        (4, (3,), 1),
    ]
    # without the lost worker a block would have no holder: the fastest one takes it
    expected = _expected(losses, [[3, 1, 1, 1]] * 3 + [[4, 1, 1], [5, 1]], outer)
    assert (results[0]['place'], results[0]['scale']) == ((0, 1), 1)
    for weight, value in results[0]['weights'].items():
        torch.testing.assert_close(value, expected[weight], rtol=0, atol=TOLERANCE)


def test_of_two_workers_one_goes_on_alone_with_its_outer_steps():
    outer = dict(type='SGD', lr=0.8, momentum=0.6, nesterov=True, blocks=True)
    left, lost = run_job(_train, 2, {1: ('training', 3)}, {}, dict(outer=outer))
    assert lost is None
    assert [(loss.round, loss.lost, len(loss.restored)) for loss in left['losses']] == [(1, (1,), 3)]
    expected = _expected(left['losses'], outer=outer, workers=2)
    for weight, value in left['weights'].items():
        torch.testing.assert_close(value, expected[weight], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize('vote', [3, 4])
def test_a_vote_that_fails_on_one_worker_alone_loses_nothing(vote: int):
    """The first vote of the second exchange, which is repeated then, or the last, after which it counts."""
    results = run_job(_train, WORKERS, {1: ('vote fails', vote)}, {})
    losses = results[0]['losses']
    assert [(loss.round, loss.lost, loss.left, loss.restored) for loss in losses] == [
        (vote - 2, (), tuple(range(WORKERS)), ())
    ]
    assert 'no worker is lost; 4 workers repeat the exchange' in str(losses[0])
    expected = _expected(losses)
    for rank, result in enumerate(results):
        assert (result['losses'], result['place']) == (losses, (rank, WORKERS))
        for weight, value in result['weights'].items():
            torch.testing.assert_close(value, expected[weight], rtol=0, atol=TOLERANCE)
            assert torch.equal(value, results[0]['weights'][weight])


def _second_engine(number: int) -> tuple[dict[str, Any], list[str], dict[str, Any]]:
    """Workers are lost in both of two engines; the first one, and one that could not go on, are of no use then."""
    model = _model()
    stops = Engine(model, torch.optim.SGD(model.parameters(), lr=LR), ResIST(min_blocks=1))
    engines: list[Engine] = []
    made = Engine.__init__

    def noted(engine: Engine, *args: Any, **kwargs: Any) -> None:
        engines.append(engine)
        made(engine, *args, **kwargs)

    patch.object(Engine, '__init__', noted).start()
    found = [_train(number, hits, {}) for hits in ({0: ('training', 3)}, {3: ('training', 3)})]
    refused = []
    for engine in (stops, engines[0]):
        engine.begin_round()
        with pytest.raises(RuntimeError) as caught:
            engine.exchange()
        refused.append(str(caught.value))
    return found[0], refused, found[1]


def test_a_further_engine_knows_who_was_lost_before_it_was_made():
    results = run_job(_second_engine, WORKERS)
    assert (results[0], results[3]) == (None, None)
    for rank, (first, refused, second) in enumerate(results[1:3]):
        assert [loss.lost for loss in first['losses']] == [(0,)]
        assert [(loss.lost, loss.left) for loss in second['losses']] == [((3,), (1, 2))]
        assert second['place'] == (rank, 2)
        assert all(torch.equal(w, results[1][2]['weights'][name]) for name, w in second['weights'].items())
        for complaint, num_workers in zip(refused, (4, 3), strict=True):
            assert f'this engine has {num_workers} workers, but there are 2 now' in complaint


def test_speeds_are_agreed_anew():
    results = run_job(_trained_by_speed, WORKERS)
    left = [result for result in results if result is not None]
    for of_rounds, weights in left:
        assert [speeds for speeds, _ in of_rounds] == [0, 0, 4, 3, 3]
        assert [(len(hands), sum(hands)) for _, hands in of_rounds] == [(4, 6)] * 3 + [(3, 6)] * 2
        assert all(torch.equal(value, left[0][1][name]) for name, value in weights.items())


def _trained_by_speed(number: int) -> tuple[list[tuple[int, list[int]]], dict[str, Tensor]]:
    """For how many workers speeds are known in each round, and the hands."""
    of_rounds = []
    begin_round = ResIST.begin_round

    def watched(protocol: ResIST, parts: Any) -> None:
        known = protocol.speeds.current
        of_rounds.append((0 if known is None else len(known.seconds), protocol.hands))
        begin_round(protocol, parts)

    patch.object(ResIST, 'begin_round', watched).start()
    patch.object(ResIST, 'speed_interval', 1).start()
    result = _train(number, {1: ('training', 5)}, {}, dict(blocks='by_speed'))
    return of_rounds, result['weights']


def _complaint(number: int, hits: dict[int, tuple[str, int]], silent_sec: float) -> str:
    patch('resist_mm.rounds.membership.SILENT_SEC', silent_sec).start()
    try:
        result = _train(number, hits, {})
    except LostWorker as error:
        return str(error)
    return str(result['losses'][-1])


def test_a_block_that_nobody_has_any_more_ends_the_run():
    # worker 0 alone holds block 2 in round 1, and worker 1 has handed it over
    results = run_job(_complaint, WORKERS, {1: ('training', 3), 0: ('regroup', 1)}, 10.0)
    assert results[:2] == [None, None]
    assert all('block 2 is lost' in result for result in results[2:])


def test_a_silent_worker_is_left_behind_and_told_so_when_it_comes_back():
    results = run_job(_complaint, WORKERS, {1: ('silent', 5)}, 1.0, timeout_sec=2, tells=False)
    assert 'have gone on without this one, number 1 at the start' in results[1]
    assert all('goes on without worker 1 (numbered' in results[rank] for rank in (0, 2, 3))


def _in_a_broken_group() -> list[str]:
    transport = Transport(torch.device('cpu'))
    leave_group(dist.distributed_c10d._get_default_store(), None)
    tensors = [torch.zeros(2) for _ in range(2)]
    operations = (
        lambda: transport.vote(1),
        lambda: dist.all_reduce(tensors[0]),
        lambda: dist.all_gather_into_tensor(torch.zeros(4), tensors[0]),
        lambda: dist.all_to_all_single(tensors[0], tensors[1]),
        lambda: dist.all_gather_object([None, None], 1),
        lambda: dist.broadcast_object_list([1]),
        dist.barrier,
    )
    raised = []
    for operation in operations:
        try:
            operation()
        except Exception as error:
            raised.append(type(error).__name__)
    dist.barrier = dist.destroy_process_group = lambda *args, **kwargs: None  # run_workers ends with them
    return raised


def test_in_a_group_that_has_lost_a_worker_every_operation_says_so():
    assert run_workers(_in_a_broken_group, 2) == [['LostWorker'] * 7] * 2


def test_a_block_that_comes_from_a_copy_has_no_momentum_but_its_own():
    parts = Parts(_model(), True)
    momentum, weights = OuterStep(lr=0.7, momentum=0.9, blocks=True), Weights(None)
    copies = Copies(0, parts, [weights, momentum], on_host=False)
    block = parts.blocks[0]
    copies._kept = {0: {weights: [block.flat.flat.clone()]}}  # an exchange in which no momentum travelled
    momentum.parts = parts
    assert torch.equal(copies.of(weights, block)[0], block.flat.flat)
    assert all(not tensor.any() for tensor in copies.of(momentum, block))


def test_any_block_has_a_copy_elsewhere_unless_several_workers_hold_it():
    for workers in range(2, 6):
        sampler = PartitionSampler(7, workers, 2)
        full = Assignment.full(workers, 7)
        for index in range(20):
            new = sampler.sample(index + 1)
            for plan in (None, *(ExchangePlan.between(old, new) for old in (full, sampler.sample(index)))):
                for block, keeper in enumerate(keepers(new, plan)):
                    holders = new.holders(block)
                    assert (keeper is None) == (len(holders) > 1)
                    assert keeper not in holders
