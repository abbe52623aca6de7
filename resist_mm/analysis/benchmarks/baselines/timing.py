"""What every worker does to learn how long a method takes on a link: time its costs, or run all of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch.distributed as dist

from ..shaped_links import sent_on_link
from .costs import LOCAL, Pace
from .task import Task

__all__ = ['time_costs', 'time_run']

ENOUGH_SEC = 3.0  # of a cost, all times together
MOST, LEAST = 7, 3  # times, the first of which does not count
AT_ONCE = 10  # iterations without communication: nobody waits, as in a round
SOONEST = 2  # iterations before PowerSGD may begin


def time_costs(config: str, name: str) -> dict[str, dict[str, float]]:
    """Time the costs that a method has of its own.

    Returns:
        dict: By cost: ``seconds`` from when the last worker has begun until the last one is done, ``bytes`` that
        all workers sent over their links, both medians, and how many ``times`` it was measured.
    """
    task = Task(config)
    running = task.start(name, seed=0, pace=Pace(task.pace.local_iters, SOONEST))
    batch = task.random_batch()
    for index in range(running.iterations_before):
        running.iterate(index, batch, whole=False)
    found = {}
    for cost, action in running.alone.items():
        found[cost] = _time_local(action, batch) if cost in LOCAL else _time(partial(action, batch))
    return found


def time_run(config: str, name: str, iterations: int) -> float:
    """Seconds of a run of some length, until the whole model is there."""
    task = Task(config)
    running = task.start(name, seed=0)
    batch = task.random_batch()

    def run() -> None:
        for index in range(iterations):
            running.iterate(index, batch, whole=index + 1 == iterations)

    return _once(run)[0]


def _time_local(action: Callable[[Any], None], batch: Any) -> dict[str, float]:
    def run() -> None:
        for _ in range(AT_ONCE):
            action(batch)

    found = _time(run)
    return dict(found, seconds=found['seconds'] / AT_ONCE)


def _time(action: Callable[[], object]) -> dict[str, float]:
    measured: list[tuple[float, int]] = []
    while len(measured) < LEAST or (len(measured) < MOST and sum(of[0] for of in measured) < ENOUGH_SEC):
        measured.append(_once(action))
    # the first opens the windows of the connections, or makes buffers
    seconds, nbytes = (median(values) for values in zip(*measured[1:], strict=True))
    return dict(seconds=seconds, bytes=nbytes, times=len(measured) - 1)


def _once(action: Callable[[], object]) -> tuple[float, int]:
    """Seconds and bytes, the same on all workers."""
    dist.barrier()
    began, sent = time.perf_counter(), sent_on_link()
    action()
    mine = (began, time.perf_counter(), sent_on_link() - sent)
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    # the clock is that of the machine, the same for all its processes; a barrier lets go of some workers earlier
    begins, ends, sizes = zip(*found, strict=True)
    return max(ends) - max(begins), sum(sizes)
