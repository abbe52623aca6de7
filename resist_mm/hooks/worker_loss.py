"""What a run has to do when its engine goes on without a worker that is lost."""

from __future__ import annotations

import logging
import math
import os
from typing import Any

from mmengine.dataset import DefaultSampler
from mmengine.logging.logger import MMFormatter
from mmengine.runner import BaseLoop, Runner

from resist_mm.checkpoint import WorkDirInUse, lock_folder
from resist_mm.rounds import Engine

__all__ = ['follow', 'warn_of_launcher']


def follow(runner: Runner, engine: Engine, known: int) -> int:
    """Adapt a run to losses; to be called after each exchange.

    - Training data: every worker goes on with its own share, so that epochs and schedules keep their length. The
      share of a lost worker is not seen any more; shuffled, it is another one in each epoch.
    - Validation data is dealt again, so that all of it is seen.
    - If worker 0 is lost, another one takes its place: it writes checkpoints and the log.

    Args:
        runner (Runner): Of the run.
        engine (Engine): Of this worker.
        known (int): How many losses have been dealt with.

    Returns:
        int: How many losses there are.
    """
    losses = [] if engine.recovery is None else engine.recovery.losses
    if len(losses) == known:
        return known
    was_main = runner.rank == 0
    runner._rank, runner._world_size = engine.rank, engine.num_workers
    if engine.rank == 0 and not was_main:
        _become_main(runner)
    for loss in losses[known:]:
        runner.logger.warning(str(loss))
    for loop in (runner._val_loop, runner._test_loop):
        if isinstance(loop, BaseLoop):
            _deal_again(runner, loop.dataloader.sampler)
    return len(losses)


def warn_of_launcher(runner: Runner, engine: Engine) -> None:
    """Warn if nobody will go on because the launcher ends all workers when one has failed."""
    from_torchrun = 'TORCHELASTIC_RUN_ID' in os.environ and os.environ.get('ON_WORKER_LOSS') != 'continue'
    if engine.recovery is not None and from_torchrun:
        runner.logger.warning(
            "on_worker_loss='continue': torchrun ends all workers of a machine when one of them fails, so that "
            'only machines can be lost. Start with ON_WORKER_LOSS=continue tools/dist_train.sh'
        )


def _deal_again(runner: Runner, sampler: Any) -> None:
    if not isinstance(sampler, DefaultSampler):
        runner.logger.warning(
            f'{type(sampler).__name__} of a validation or test set still deals to the workers from before: what a '
            'lost worker would have evaluated is left out. DefaultSampler deals again'
        )
        return
    sampler.rank, sampler.world_size = runner.rank, runner.world_size
    length = len(sampler.dataset)
    if sampler.round_up:
        sampler.num_samples = math.ceil(length / sampler.world_size)
        sampler.total_size = sampler.num_samples * sampler.world_size
    else:
        sampler.num_samples = math.ceil((length - sampler.rank) / sampler.world_size)
        sampler.total_size = length


def _become_main(runner: Runner) -> None:
    """Log as worker 0 does, and claim the work dir in its place."""
    level = logging.getLevelName(runner.cfg.get('log_level', 'INFO'))
    for handler in runner.logger.handlers:
        handler.setLevel(level)
    log_file = runner.logger.log_file
    if log_file is not None and not any(isinstance(h, logging.FileHandler) for h in runner.logger.handlers):
        handler = logging.FileHandler(log_file, 'a')
        handler.setFormatter(MMFormatter(color=False, datefmt='%Y/%m/%d %H:%M:%S'))
        handler.setLevel(level)
        runner.logger.handlers.append(handler)
    try:
        problem = lock_folder(runner.work_dir)
    except WorkDirInUse as error:  # a file server may take minutes to notice that a machine is gone
        problem = str(error)
    if problem is not None:
        runner.logger.warning(problem)
