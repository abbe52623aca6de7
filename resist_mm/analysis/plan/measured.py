"""Measures the costs of a run, in one process or among all its workers."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist

from ..cost.counted_run import CountedRun
from .link import LinkSpeed
from .seconds import Costs, Work
from .trial import Trial, block_sec, measure_link, measure_plain, measure_work

__all__ = ['costs_given', 'least_hand', 'measure']

ITERATIONS = 10
LINK_BYTES = 8_000_000
Timings = tuple[float, float, float, float, dict[str, Work]]


def least_hand(run: CountedRun, num_workers: int) -> int:
    """The number of partitioned blocks of a worker, on average."""
    num_blocks = len(run.network.blocks)
    return min(num_blocks, max(run.min_blocks or 0, -(-num_blocks // num_workers)))


def measure(
    config: str | Trial,
    run: CountedRun,
    num_workers: int,
    link: LinkSpeed | None = None,
    iterations: int = ITERATIONS,
) -> Costs:
    """Time iterations, codecs and, unless it is given, the link.

    Where processes form a group, all of them measure at the same time, and the slowest counts.

    Args:
        config (str or Trial): The config's path, or its model and data.
        run (CountedRun): What has been read from it.
        num_workers (int): Number of workers.
        link (LinkSpeed, optional): Of every worker. Defaults to None: it is measured.
        iterations (int): Of the whole model and of a sub-ResNet. Defaults to 10.

    Raises:
        ValueError: If the model cannot be built, or its training data are not there.
    """
    trial = Trial(config) if isinstance(config, str) else config
    num_blocks, held = len(run.network.blocks), least_hand(run, num_workers)
    whole = sub = trial.iteration_sec(iterations)
    if num_blocks > held:
        trial.hold(held)
        sub = trial.iteration_sec(iterations)
        of_block = block_sec(whole, sub, num_blocks, held)
    found = (sub, whole, of_block, measure_plain(trial.device), measure_work(run.codecs, trial.device))
    if dist.is_initialized():
        found = _slowest(found)
    if link is None:
        link = measure_link(LINK_BYTES, trial.device)
    _, whole, of_block, plain, work = found
    return Costs(whole, of_block, link, plain, work)


def costs_given(run: CountedRun, num_workers: int, link: LinkSpeed, iter_sec: list[float]) -> Costs:
    """The costs if seconds of an iteration are given: of the whole model and, maybe, of a sub-ResNet.

    Without the second all residual blocks are taken to cost the same, as cuts of a pipeline assume.
    """
    num_blocks, held = len(run.network.blocks), least_hand(run, num_workers)
    if len(iter_sec) > 1:
        return Costs(iter_sec[0], block_sec(iter_sec[0], iter_sec[1], num_blocks, held), link)
    chain = len(run.network.activations) or num_blocks + 1
    return Costs(iter_sec[0], iter_sec[0] / chain, link)


def _slowest(found: Timings) -> Timings:
    """What the worker has measured whose iterations of a sub-ResNet take longest."""
    of_all: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_all, found)
    return max(of_all, key=lambda of_worker: of_worker[0])
