"""How much of the work counts when a worker is killed every few seconds."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from resist_mm.checkpoint import newest_whole, read_checkpoint
from tests.workers import PRELOADED

from .group import run_group
from .job import build_runner
from .plans import ALL, GOES_ON, JOBS, LONG, Fault, Plan

__all__ = ['measure']

TIMEOUT_SEC = 10.0


def measure(folder: Path, seconds: float, every_sec: float, goes_on: bool = False) -> dict[str, Any]:
    """Train with four workers; so many seconds after each start one of them is killed, and the job starts again.

    Args:
        folder (Path): For the work dir; replaced.
        seconds (float): How long.
        every_sec (float): Time between kills, from start to start.
        goes_on (bool): Whether the others go on without the killed worker (``on_worker_loss='continue'``) as long
            as there is one to kill, so that the number of kills is at most three. Defaults to False.

    Returns:
        dict: ``iterations_kept`` (of the last checkpoint), ``iterations_run``, their ratio ``goodput``;
        ``start_sec``, the mean time from a start to its first iteration; ``time_that_counts``, the share of the
        time that went into iterations that were kept. If the others go on, iterations are those of all workers;
        ``ended_early`` says that a worker was lost while the model was whole, which ends the group; then there is
        no goodput.

    Raises:
        RuntimeError: If training ends before the time is over, by itself or for another reason.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / 'run').mkdir(parents=True)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([*PRELOADED, 'tests.test_chaos.goodput'])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_measure_going_on if goes_on else _measure, args=(folder.absolute(), seconds, every_sec, sender)
    )
    process.start()
    sender.close()
    try:
        return receiver.recv()
    except EOFError:
        raise RuntimeError('it could not be measured; the traceback is in stderr') from None
    finally:
        process.join()


def _measure(folder: Path, seconds: float, every_sec: float, sender: Any) -> None:
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.set_num_threads(1)
    (folder / 'imports').mkdir()
    build_runner(folder / 'imports', 'resist', [], resume=False, keep_all=False, iters=2).train()
    rng, began = random.Random(0), time.monotonic()
    run = kept = kills = 0
    training_sec = starting_sec = 0.0
    while (now := time.monotonic()) < began + seconds:
        fault = Fault('kill', rng.randrange(4), 'start', 1, 0, every_sec, kills)
        start = run_group(Plan(0, LONG, (fault,)), kills, folder, TIMEOUT_SEC, kept > 0)
        if start.complete:
            raise RuntimeError('training was complete before the time was over: give the job more iterations')
        training_sec += time.monotonic() - now - start.began_sec
        starting_sec += start.began_sec
        run += start.reached - kept
        newest, _ = newest_whole(folder / 'run')
        kept = read_checkpoint(newest)['meta']['iter'] if newest else 0
        kills += 1
    took = time.monotonic() - began
    sender.send(
        dict(
            seconds=round(took, 1),
            kills=kills,
            iterations_run=run,
            iterations_kept=kept,
            goodput=round(kept / run, 4),
            start_sec=round(starting_sec / kills, 2),
            time_that_counts=round(kept / run * training_sec / took, 4),
        )
    )


def _measure_going_on(folder: Path, seconds: float, every_sec: float, sender: Any) -> None:
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.set_num_threads(1)
    (folder / 'imports').mkdir()
    build_runner(folder / 'imports', 'resist', [], resume=False, keep_all=False, iters=2).train()
    workers, local_iters = JOBS[GOES_ON].workers, JOBS[GOES_ON].hook['local_iters']
    kills = min(workers - 1, int((seconds - 1) / every_sec))
    # worker 0 keeps the store
    faults = [Fault('kill', rank, 'start', 1, 0, rank * every_sec) for rank in range(1, kills + 1)]
    end = Fault('kill', ALL, 'start', 1, 0, seconds)
    plan = Plan(0, GOES_ON, (*faults, end), ends_others=False, limit_sec=seconds + 60)
    began = time.monotonic()
    start = run_group(plan, 0, folder, TIMEOUT_SEC, False)
    took = time.monotonic() - began
    newest, _ = newest_whole(folder / 'run')
    last_checkpoint = read_checkpoint(newest)['meta']['iter'] if newest else 0
    endings = [f'{e["error"]}: {e["message"]}' for e in start.endings if 'error' in e]
    ended_early = took < seconds
    if ended_early and (start.complete or not all(ending.startswith('LostWorker') for ending in endings)):
        raise RuntimeError(f'training ended before the time was over: {endings or "it was complete"}')
    if ended_early:
        kills = min(kills, int(took / every_sec))
    # the round that a worker was killed in does not count; the last iteration that was begun did not end
    lost = sum((start.iterations[rank] - 1) % local_iters + 1 for rank in range(1, kills + 1))
    run = sum(start.iterations)
    sender.send(
        dict(
            seconds=round(took, 1),
            kills=kills,
            iterations_run=run,
            iterations_kept=None if ended_early else run - lost,
            goodput=None if ended_early else round(1 - lost / run, 4),
            ended_early=ended_early,
            of_workers=start.iterations,
            last_checkpoint=last_checkpoint,
            endings=endings,
        )
    )
