"""Averaging the shared part before a round ends: real workers against an independent reference."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.builders import build_codec
from resist_mm.exchange.background import BackgroundAverage
from resist_mm.rounds import Engine, ExchangeRefused, LocalSGD, LostWorker, ResIST
from resist_mm.rounds.health import BadNumbers
from resist_mm.rounds.staging import StagedExchange
from tests.test_rounds.test_outer_step import SHARES, Unequal
from tests.test_rounds.trained import train, trained_engine
from tests.workers import run_workers

WORKERS = 3
DILOCO = dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)
WHOLE_AFTER = (False, False, True, False, True)
CHANGES = dict(type='changes', bits=2)
FORMS: dict[str, tuple[Any, dict]] = {
    'sharing': (lambda: ResIST(min_blocks=4), {}),
    'warm-up': (lambda: ResIST(min_blocks=2, warmup_rounds=1), {}),
    'local SGD': (lambda: LocalSGD(), {}),
    'outer step': (lambda: ResIST(min_blocks=0, outer=DILOCO), {}),
    'momentum': (lambda: ResIST(min_blocks=3), dict(momentum_restart_interval=None, bn_interval=1)),
    'unequal workers': (lambda: Unequal(blocks=[5, 3, 1]), {}),
    'changes at 2 bits': (lambda: ResIST(min_blocks=2), dict(codec=build_codec(CHANGES))),
    'all of it': (lambda: LocalSGD(outer=DILOCO), dict(codec=build_codec(CHANGES))),
}
COMPRESSED = ('changes at 2 bits', 'all of it')


class Round(NamedTuple):
    """What a worker had of the shared part, and the bytes."""

    start: Tensor
    snapshot: Tensor
    trained: Tensor
    after: Tensor
    reference: Tensor | None
    total: float


def _shared(engine: Engine) -> Tensor:
    return engine.parts.shared[0].flat.flat.clone()


def _rounds(form: str) -> list[Round]:
    make, options = FORMS[form]
    engine = trained_engine(make(), **options, overlap_iters=2)
    found = []
    for index, whole in enumerate(WHOLE_AFTER):
        if engine.in_sync:
            engine.begin_round()
        start = _shared(engine)
        train(engine, 2 * index)
        snapshot = _shared(engine)
        # the last round ends with the whole model, and what is under way then is discarded
        if index != 2:
            engine.average_ahead([4] * WORKERS)
        train(engine, 2 * index + 1)
        trained = _shared(engine)
        traffic = engine.exchange(whole)
        reference = engine.parts.shared[0].reference
        reference = None if reference is None else reference.clone()
        found.append(Round(start, snapshot, trained, _shared(engine), reference, traffic.total))
    return found


def _all_forms() -> dict[str, list[Round]]:
    return {form: _rounds(form) for form in FORMS}


@pytest.fixture(scope='module')
def rounds() -> list[dict[str, list[Round]]]:
    """By worker and form."""
    return run_workers(_all_forms, WORKERS)


def _mean(of_workers: list[Tensor], form: str) -> Tensor:
    shares = torch.tensor(SHARES if form == 'unequal workers' else [1.0] * WORKERS, dtype=torch.float64)
    return (torch.stack(of_workers, 1).double() * shares).sum(1) / shares.sum()


@pytest.mark.parametrize('form', [form for form in FORMS if form not in COMPRESSED])
def test_the_mean_of_the_snapshots_is_corrected_by_what_was_trained_since(rounds, form):
    agreed = rounds[0][form][0].start.double()
    momentum: Tensor | None = None
    for index, whole in enumerate(WHOLE_AFTER):
        of_workers = [of_forms[form][index] for of_forms in rounds]
        mean = _mean([of.trained if whole else of.snapshot for of in of_workers], form)
        if form == 'outer step':
            step = agreed - mean
            momentum = step if momentum is None else 0.9 * momentum + step
            mean = agreed - 0.7 * (step + 0.9 * momentum)
        agreed = mean
        for of in of_workers:
            drift = 0 if whole else of.trained.double() - of.snapshot.double()
            torch.testing.assert_close(of.after.double(), agreed + drift, rtol=0, atol=4e-6)
    # the workers do differ inside a round
    first = [of_forms[form][0].after for of_forms in rounds]
    assert (first[0] - first[1]).abs().max() > 1e-4


@pytest.mark.parametrize('form', FORMS)
def test_workers_agree_bit_for_bit_on_what_the_next_round_refers_to_and_on_the_whole_model(rounds, form):
    for index, whole in enumerate(WHOLE_AFTER):
        first, *others = [of_forms[form][index] for of_forms in rounds]
        for of in others:
            assert first.total == of.total
            if whole:
                assert torch.equal(first.after, of.after)
            elif first.reference is not None:
                assert torch.equal(first.reference, of.reference)
    assert (rounds[0][form][0].reference is not None) == (form in (*COMPRESSED, 'outer step'))


def test_compressed_changes_are_all_there_once_the_model_is_whole(rounds):
    """Error feedback: two compressed means and an exact one come to the mean of all that was trained."""
    of_workers = [of_forms['changes at 2 bits'] for of_forms in rounds]
    trained = sum(
        torch.stack([of[i].trained.double() - of[i].start.double() for of in of_workers]) for i in range(3)
    ).mean(0)
    begin, end = of_workers[0][0].start.double(), of_workers[0][2].after.double()
    torch.testing.assert_close(end, begin + trained, rtol=0, atol=4e-6)
    first = of_workers[0][0].reference.double() - begin
    exact = _mean([of[0].snapshot for of in of_workers], '') - begin
    assert (first - exact).abs().max() > 1e-4, 'nothing was left out'


def test_bytes_are_those_of_an_exchange_without_overlap():
    def total(of: list[Round]) -> list[float]:
        return [round_.total for round_ in of]

    plain = run_workers(_without_overlap, WORKERS)
    overlapped = run_workers(_of_sharing, WORKERS)
    for a, b in zip(plain, overlapped, strict=True):
        # of the last round, two averages: one is discarded
        assert total(b)[:4] == a[:4] and total(b)[4] > a[4]


def _of_sharing() -> list[Round]:
    return _rounds('sharing')


def _without_overlap() -> list[float]:
    engine = trained_engine(ResIST(min_blocks=4))
    totals = []
    for whole in WHOLE_AFTER:
        if engine.in_sync:
            engine.begin_round()
        totals.append(engine.exchange(whole).total)
    return totals


def _disturbed() -> list[Tensor]:
    """A refused exchange, one that is repeated, and late messages."""
    found = []
    for disturbance in ('none', 'late', 'refused'):
        engine = trained_engine(ResIST(min_blocks=2, outer=DILOCO), overlap_iters=2)
        engine.begin_round()
        train(engine, 0)
        with _late() if disturbance == 'late' and dist.get_rank() == 1 else nullcontext():
            engine.average_ahead([4] * 2)
            train(engine, 1)
            before, momenta = _shared(engine), dict(engine.protocol._step.momenta)
            if disturbance == 'refused':
                fails = patch.object(StagedExchange, 'get_ready', side_effect=MemoryError)
                refused = pytest.raises((MemoryError, ExchangeRefused))
                with fails if dist.get_rank() == 1 else nullcontext(), refused:
                    engine.exchange()
                assert torch.equal(_shared(engine), before) and momenta == engine.protocol._step.momenta
                engine.exchange()
                continue_from = _shared(engine)
                dist.all_reduce(other := continue_from.clone(), dist.ReduceOp.MAX)
                assert torch.equal(other, continue_from)  # repeated, it is exact
                continue
            engine.exchange()
        train(engine, 2)
        engine.make_whole()
        found.append(_shared(engine))
    return found


def _late() -> Any:
    import time

    run = BackgroundAverage._run

    def slow(*args: Any) -> None:
        time.sleep(0.5)
        run(*args)

    return patch.object(BackgroundAverage, '_run', slow)


def test_roll_back_and_late_messages():
    for undisturbed, late in run_workers(_disturbed, 2):
        assert torch.equal(undisturbed, late)


def _spoil_shared(engine: Engine) -> None:
    # nothing else: blocks are looked at as without overlap
    engine.parts.shared[0].flat.flat[5] = float('nan')


def _bad(when: str) -> tuple[str, bool]:
    engine = trained_engine(ResIST(min_blocks=2), overlap_iters=2)
    engine.begin_round()
    train(engine, 0)
    if when == 'before' and dist.get_rank() == 1:
        _spoil_shared(engine)
    engine.average_ahead([4] * 2)
    if when == 'since' and dist.get_rank() == 1:
        _spoil_shared(engine)
    before = _shared(engine)
    with pytest.raises(BadNumbers) as caught:
        engine.exchange()
    return str(caught.value), torch.equal(_shared(engine).nan_to_num(), before.nan_to_num())


def _both_bad() -> list:
    return [_bad(when) for when in ('before', 'since')]


def test_bad_numbers_stop_all_workers_whenever_they_came_up():
    for of_worker in run_workers(_both_bad, 2):
        for message, unchanged in of_worker:
            assert 'worker 1' in message and unchanged


def _broken() -> bool:
    engine = trained_engine(ResIST(min_blocks=2), overlap_iters=2)
    engine.begin_round()
    train(engine, 0)
    before = _shared(engine)
    with patch('resist_mm.exchange.transport.Transport.average', side_effect=MemoryError('no room')):
        engine.average_ahead([4] * 2)
        for _ in range(2):  # the mean is not there the second time either
            with pytest.raises(MemoryError, match='no room'):
                engine.exchange()
    return torch.equal(_shared(engine), before) and engine.assignment is not None


def test_an_error_in_the_background_is_raised_in_the_exchange():
    assert run_workers(_broken, 2) == [True, True]


def _left_alone() -> tuple[str, bool]:
    engine = trained_engine(ResIST(min_blocks=2), overlap_iters=2)
    engine.begin_round()
    train(engine, 0)
    error = ''
    before = _shared(engine)
    if dist.get_rank() == 0:
        engine.average_ahead([4] * 2)
        try:
            engine.exchange()
        except LostWorker as lost:
            error = str(lost)
    else:
        dist.destroy_process_group()  # as the end of its process would
    dist.barrier = dist.destroy_process_group = lambda *args, **kwargs: None  # run_workers ends with them
    return error, torch.equal(_shared(engine), before)


def test_a_worker_that_ends_while_the_average_is_on_its_way_is_missed():
    (error, kept), _ = run_workers(_left_alone, 2, group_timeout_sec=15)
    assert 'round 0, exchange: worker 1 is missing' in error and kept


def _iterations() -> tuple[list[int], bool]:
    engine = trained_engine(ResIST(min_blocks=2), overlap_iters=3)
    done: list[int] = []
    began: list[int] = []
    begin = engine._overlap.start
    engine._overlap.start = lambda old: (began.append(len(done)), begin(old))
    for whole in (False, False, True):
        done.clear()
        engine.run_round(lambda: done.append(1), 5, whole)
    return began, engine.in_sync


def test_a_round_of_the_engine_begins_to_average_where_it_says():
    assert run_workers(_iterations, 2) == [([2, 2], True)] * 2


def _slow_worker() -> tuple[list[int], bool]:
    engine = trained_engine(ResIST(min_blocks=2), overlap_iters=1)
    done: list[int] = []
    began: list[int] = []
    begin = engine._overlap.start
    engine._overlap.start = lambda old: (began.append(len(done)), begin(old))
    with patch.object(engine.protocol, 'iterations', lambda round_index, local_iters: [10, 9]):
        engine.run_round(lambda: done.append(1), 10)
    return began, engine.in_sync


def test_a_slower_worker_averages_too_even_if_only_at_its_end():
    assert run_workers(_slow_worker, 2, group_timeout_sec=30) == [([9], False)] * 2


def test_what_cannot_be_combined_is_named():
    for options, names in (
        (dict(bad_numbers='drop'), "bad_numbers='drop'"),
        (dict(on_worker_loss='continue'), "on_worker_loss='continue'"),
        (dict(codec=build_codec(dict(type='quantize', bits=8, stochastic=True))), 'codec.stochastic=True'),
    ):
        with pytest.raises(ValueError, match=f'overlap_iters=2 cannot be combined with {names}'):
            trained_engine(ResIST(), overlap_iters=2, **options)
    engine = trained_engine(ResIST(), overlap_iters=2)
    with pytest.raises(ValueError, match='overlap_iters=2 must be below local_iters=2'):
        engine.run_round(lambda: None, 2)
    engine.average_ahead([4])  # of one worker there is nothing to average
