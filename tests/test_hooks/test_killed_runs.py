"""Runs that are killed while they save, at every step and at random: there is always something to resume."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resist_mm.checkpoint import files, newest_whole, read_checkpoint
from tests.workers import PRELOADED

from .saving import saving_runner

KILLS = 6
STEPS = ('open', 'fsync', 'replace')
FORK = multiprocessing.get_context('fork')


def _apart(function: Callable, *args: Any) -> None:
    """Call a function in a process of its own, which has one thread and no GPU: it can fork runs in no time."""
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=_prepared, args=(function, *args))
    process.start()
    process.join()
    assert process.exitcode == 0, 'its traceback is in stderr'


def _prepared(function: Callable, folder: Path, *args: Any) -> None:
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.set_num_threads(1)
    for name in ('imports', 'runs'):
        (folder / name).mkdir()
    saving_runner(folder / 'imports', 1, best=True).train()  # imports what a run needs
    function(folder / 'runs', *args)


def _start(function: Callable, *args: Any) -> Any:
    process = FORK.Process(target=function, args=args)
    process.start()
    return process


def _train_and_die(work_dir: Path, step: int, background: bool) -> None:
    """Kill this process before the given step of saving; without one it ends normally."""
    left = iter(range(step, 0, -1))

    class KillingOS:
        """Module os, until it is time."""

        def __getattr__(self, name: str) -> Any:
            if name in STEPS and next(left, 0) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return getattr(os, name)

    files.os = KillingOS()  # type: ignore[assignment]
    saving_runner(work_dir, 2, best=True, background=background).train()


def _check(work_dir: Path) -> tuple[int, int]:
    """Check what a killed run leaves behind; the iteration to resume from, and the number of unfinished files."""
    newest, passed_over = newest_whole(work_dir)
    assert newest is not None and not passed_over
    checkpoint = read_checkpoint(newest)
    last = Path((work_dir / 'last_checkpoint').read_text()) if (work_dir / 'last_checkpoint').exists() else newest
    if last != newest:
        # killed between writing a checkpoint and naming it: what is named must still be there
        assert read_checkpoint(last)['meta']['iter'] == checkpoint['meta']['iter'] - 1
    for best in work_dir.glob('best_*.pth'):
        read_checkpoint(best)
    info = checkpoint['message_hub']['runtime_info']
    if 'best_ckpt' in info:
        read_checkpoint(info['best_ckpt'])
    return checkpoint['meta']['iter'], len(list(work_dir.glob('*.tmp')))


@pytest.mark.parametrize('background', [False, True])
def test_killed_at_every_step_of_saving(tmp_path, background):
    _apart(_kill_at_every_step, tmp_path, background)


def _kill_at_every_step(folder: Path, background: bool) -> None:
    """Saves 2 checkpoints and the best one, with the name of the last, in each of 2 iterations."""
    died, iterations, unfinished, step = 0, set(), 0, 2
    while True:
        step += 3  # a file is four steps, with the sync of its folder: each kind is met in turn
        work_dir = folder / str(step)
        work_dir.mkdir()
        process = _start(_train_and_die, work_dir, step, background)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        died += 1
        iteration, left = _check(work_dir)
        iterations.add(iteration)
        unfinished += left
    assert died > 10 and iterations == {1, 2} and unfinished > 3
    assert _check(work_dir) == (2, 0)
    assert len(list(work_dir.glob('*.pth'))) == 2, 'the last and the best one'


def _train_until_killed(work_dir: Path, resume: bool, background: bool) -> None:
    saving_runner(work_dir, 10**6, 3_000_000, best=True, resume=resume, background=background).train()


@pytest.mark.parametrize('background', [False, True])
def test_killed_at_random_and_resumed(tmp_path, background):
    _apart(_kill_at_random, tmp_path, background)


def _kill_at_random(work_dir: Path, background: bool) -> None:
    draw, before, unfinished = random.Random(1), 0, 0
    for kill in range(KILLS):
        process = _start(_train_until_killed, work_dir, kill > 0, background)
        deadline = time.time() + 300
        while not (reached := _named(work_dir)) > before and process.is_alive():
            assert time.time() < deadline
            time.sleep(0.01)
        assert process.is_alive(), 'it could not be resumed'
        time.sleep(draw.uniform(0, 0.3))
        process.kill()
        process.join()
        before, left = _check(work_dir)
        assert before >= reached
        unfinished += left
    assert unfinished > 0, 'no kill has met a file half written'
    kept = list(work_dir.glob('iter_*.pth'))
    assert len(kept) <= 2, 'the last one, and the one before if it was killed before that was deleted'


def _named(work_dir: Path) -> int:
    record = work_dir / 'last_checkpoint'
    return int(record.read_text().rpartition('_')[2].removesuffix('.pth')) if record.exists() else 0
