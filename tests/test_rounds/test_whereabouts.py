"""Errors that name the worker that is missing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from resist_mm.rounds import LostWorker
from resist_mm.rounds.whereabouts import enter, missing_workers_named
from tests.workers import run_workers


def _miss_worker_1() -> str:
    """Worker 0 waits half a second for worker 1; worker 2 has missed another one before."""
    impatient = dist.new_group(timeout=timedelta(seconds=0.5))
    store = dist.distributed_c10d._get_default_store()
    rank, said = dist.get_rank(), ''
    enter('exchange' if rank != 1 else 'training', 3)
    if rank == 1:
        with pytest.raises(ArithmeticError), missing_workers_named():
            raise ArithmeticError('of its own')  # remains what it is
    dist.barrier()
    if rank != 1:
        with pytest.raises(LostWorker) as lost, missing_workers_named():
            dist.all_reduce(torch.zeros(1), group=impatient)
        said = str(lost.value)
        store.set(f'done{rank}', '')
    store.wait(['done0', 'done2'])
    return said


def test_the_missing_worker_is_named_with_round_and_phase():
    first, _, third = run_workers(_miss_worker_1, 3)
    for said, rank in ((first, 0), (third, 2)):
        last_seen = 'round 3, training, where it failed (ArithmeticError)'
        assert said.startswith(f'round 3, exchange: worker 1 is missing, last seen: {last_seen}. ')
        assert f'(said by worker {rank} of 3)' in said


def _lose_worker_0() -> str:
    """The one that keeps the notes is gone: what the other is told."""
    enter('exchange', 3)
    dist.barrier()
    if dist.get_rank() == 0:
        return ''
    gone = RuntimeError('[gloo/transport/tcp/pair.cc:547] Connection closed by peer')
    with pytest.MonkeyPatch.context() as patch:

        def fail(*args: object) -> None:
            raise dist.DistNetworkError('Connection reset')

        patch.setattr(dist.distributed_c10d, '_get_default_store', lambda: Gone(fail))
        with pytest.raises(LostWorker) as lost, missing_workers_named():
            raise gone
    assert lost.value.__cause__ is gone
    return str(lost.value)


class Gone:
    """A store that does not answer."""

    def __init__(self, fail: Callable[..., None]) -> None:
        self.check = self.get = self.set = fail


def test_worker_0_is_named_if_it_keeps_no_notes_any_more():
    said = run_workers(_lose_worker_0, 2)[1]
    assert 'worker 0 is missing, last seen: it keeps the list of where workers are, and does not answer' in said


def _silent_worker_0() -> str:
    """The one that keeps the notes is there, but stopped: a question to it waits, and all others behind it."""
    one_at_a_time = threading.Lock()

    def wait(*args: object) -> None:
        with one_at_a_time:
            threading.Event().wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('resist_mm.rounds.whereabouts.ANSWER_SEC', 0.2)
        patch.setattr(dist.distributed_c10d, '_get_default_store', lambda: Gone(wait))
        with pytest.raises(LostWorker) as lost, missing_workers_named():
            raise RuntimeError('Application timeout caused pair closure')  # by gloo
        with pytest.raises(ArithmeticError), missing_workers_named():
            raise ArithmeticError('of its own')
    return str(lost.value)


def test_nobody_waits_for_a_worker_0_that_is_silent():
    began = time.monotonic()
    said = run_workers(_silent_worker_0, 2)[1]
    assert 'worker 0 is missing, last seen: it keeps the list of where workers are, and does not answer' in said
    assert time.monotonic() - began < 60


def test_without_a_process_group_errors_stay_as_they_are():
    enter('exchange', 3, waits=True)
    with pytest.raises(RuntimeError, match=r'^gloo$'), missing_workers_named():
        raise RuntimeError('gloo')
