"""Carries out many plans, several at a time, in processes forked from one that has imported everything."""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import torch

from resist_mm.checkpoint import lock_folder
from tests.workers import PRELOADED

from .group import FORK
from .job import build_runner, die_with_parent
from .plans import Plan
from .trial import Result, as_json, carry_out, new_result

__all__ = ['carry_out_all']


def carry_out_all(plans: Sequence[Plan], folder: Path, at_a_time: int = 3) -> list[Result]:
    """Carry out plans; those whose result is in the folder already are not repeated.

    Args:
        plans (Sequence[Plan]): Each with a seed of its own.
        folder (Path): Gets a file for each result; and the work dir of a plan that has failed.
        at_a_time (int): How many run at once.

    Returns:
        list[Result]: In the order of the plans.

    Raises:
        WorkDirInUse: If another series uses the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    problem = lock_folder(folder)
    if problem:
        print(problem)
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([*PRELOADED, 'tests.test_chaos.trial'])
    process = context.Process(target=_prepared, args=(list(plans), folder.absolute(), at_a_time))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError('the plans could not be carried out; the traceback is in stderr')
    return [Result(**json.loads(_file(folder, plan.seed).read_text())) for plan in plans]


def _file(folder: Path, seed: int) -> Path:
    return folder / f'{seed}.json'


def _prepared(plans: list[Plan], folder: Path, at_a_time: int) -> None:
    """Has one thread and no GPU, so that it can fork a run in no time."""
    die_with_parent()
    os.environ['CUDA_VISIBLE_DEVICES'] = ''
    torch.set_num_threads(1)
    waiting = [plan for plan in plans if not _file(folder, plan.seed).exists()]
    if waiting:
        imports = folder / 'imports'
        imports.mkdir(exist_ok=True)
        build_runner(imports, 'resist', [], resume=False, keep_all=False, iters=2).train()
        shutil.rmtree(imports)
    running: list = []
    while waiting or running:
        running = [process for process in running if process.is_alive()]
        while waiting and len(running) < at_a_time:
            process = FORK.Process(target=_one, args=(waiting.pop(0), folder))
            process.start()
            running.append(process)
        time.sleep(0.01)


def _one(plan: Plan, folder: Path) -> None:
    die_with_parent(signal.SIGTERM)  # removes its networks
    faulthandler.enable()
    work = folder / f'seed_{plan.seed}'
    shutil.rmtree(work, ignore_errors=True)
    try:
        result = carry_out(plan, work, folder / 'references')
    except BaseException:
        result = new_result(plan, f'the harness has failed: {traceback.format_exc()}')
    if not result.problems:
        shutil.rmtree(work, ignore_errors=True)
    file = _file(folder, plan.seed)
    file.with_suffix('.tmp').write_text(as_json(result))
    file.with_suffix('.tmp').rename(file)
    sys.exit(0)
