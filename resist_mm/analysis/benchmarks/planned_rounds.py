"""What every worker of benchmark_plan.py does: measure what a prediction rests on, then train by every setting."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch.distributed as dist
from mmengine.model import MMDistributedDataParallel

from ...builders import build_codec
from ...rounds import Engine, LocalSGD, ResIST, RoundProtocol
from ..cost.counted_run import CountedRun
from ..plan import LinkSpeed
from ..plan.measured import measure
from ..plan.trial import Trial
from .cpu_quotas import Quota
from .shaped_links import sent_on_link

__all__ = ['Key', 'train']

Key = tuple[str, str, int, int]  # protocol, codec, iterations of a round and of overlap


def train(
    args: argparse.Namespace, run: CountedRun, keys: Sequence[Key], quotas: Sequence[Quota]
) -> dict[str, Any]:
    """Measure, and train by settings.

    Args:
        args (argparse.Namespace): Of the command.
        run (CountedRun): What the config says.
        keys (Sequence[tuple]): Protocol, name of the codec, iterations of a round, and overlap of each setting.
        quotas (Sequence[Quota]): Of each worker.

    Returns:
        dict: ``costs``, and for each setting ``measured``: seconds of a round, bytes of all workers, and bytes
        that left this worker over its link.
    """
    quota, trial = quotas[dist.get_rank()], Trial(args.config)
    quota.enter()
    costs = measure(trial, run, args.workers, LinkSpeed.of_text(args.link), args.iterations)
    measured = {}
    for key in keys:
        trial.reset()
        measured[key] = _ddp(args, trial, key[2]) if key[0] == 'ddp' else _rounds(args, run, trial, key)
    return dict(costs=costs, measured=measured)


def _rounds(args: argparse.Namespace, run: CountedRun, trial: Trial, key: Key) -> tuple[float, float, int]:
    protocol, name, local_iters, overlap_iters = key
    deals: RoundProtocol = ResIST(min_blocks=run.min_blocks) if protocol == 'resist' else LocalSGD()
    codec = build_codec(run.codecs[name])
    optimizer = trial.optim_wrapper.optimizer
    engine = Engine(trial.model, optimizer, deals, codec, overlap_iters=overlap_iters)
    engine.run_round(trial.iterate, 1 + overlap_iters)
    engine.make_whole()
    engine.round = 0  # so that the rounds are those that are predicted
    sent: list[float] = []

    def run_rounds() -> None:
        for _ in range(args.rounds):
            sent.append(engine.run_round(trial.iterate, local_iters).total)

    seconds, on_link = _timed(run_rounds)
    return seconds / args.rounds, sum(sent) / args.rounds, round(on_link / args.rounds)


def _ddp(args: argparse.Namespace, trial: Trial, local_iters: int) -> tuple[float, float, int]:
    trial.model = MMDistributedDataParallel(trial.model, broadcast_buffers=False)
    for _ in range(2):  # it rebuilds its buckets after the first
        trial.iterate()

    def iterate() -> None:
        for _ in range(local_iters):
            trial.iterate()

    seconds, on_link = _timed(iterate)
    return seconds, 0, on_link


def _timed(action: Callable[[], None]) -> tuple[float, int]:
    """Seconds of something that all workers do, and the bytes that left this one."""
    dist.barrier()
    began, sent = time.perf_counter(), sent_on_link()
    action()
    return time.perf_counter() - began, sent_on_link() - sent
