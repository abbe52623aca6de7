"""Before training: claim the work dir, and choose the checkpoint to resume from."""

from __future__ import annotations

import os.path as osp
import time
from pathlib import Path
from typing import Any
from weakref import WeakSet

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from resist_mm.checkpoint import CheckpointError, WorkDirInUse, lock_folder, newest_whole
from resist_mm.checkpoint.loading import trusts

__all__ = ['begin_run']

STARTED_NAME = 'run_started'
# a file server may take this long to notice that a machine that held a lock is gone
LOCK_WAIT_SEC = 120

_begun: WeakSet[Runner] = WeakSet()


def begin_run(runner: Runner, restarted: bool = False) -> None:
    """Claim the folders of a run; if it resumes without a path, choose the newest checkpoint that is whole.

    To be called by all workers; worker 0 decides. Calling it again does nothing.

    Args:
        runner (Runner): Of the run.
        restarted (bool): Whether these workers take the place of a group that was stopped. They resume from the
            newest whole checkpoint that the run has written, or begin as that group did if there is none yet.
            Defaults to False.

    Raises:
        OSError: If the work dir cannot be used.
        WorkDirInUse: If another job trains in the work dir.
        CheckpointError: If there is no checkpoint to resume from, or one has to be trusted first.
    """
    if runner in _begun:
        return
    decided: list[Any] = [None, None]
    if is_main_process():
        try:
            decided[0] = _decide(runner, restarted)
        except (CheckpointError, OSError, WorkDirInUse) as error:
            decided[1] = error
    broadcast_object_list(decided)
    resume_from, problem = decided
    if problem is not None:
        raise problem
    _begun.add(runner)
    if resume_from is not None:
        runner._load_from, runner._resume = resume_from, True


def _decide(runner: Runner, restarted: bool) -> str | None:
    folders = _local_folders(runner)
    for folder in folders:
        problem = _lock(folder, LOCK_WAIT_SEC if restarted else 0)
        if problem is not None:
            runner.logger.warning(problem)
    started = Path(runner.work_dir) / STARTED_NAME
    if not restarted:
        started.touch()
    elif not runner._resume or runner._load_from is not None:
        return _newest_of_this_run(runner, folders, started)
    if not runner._resume or runner._load_from is not None:
        return None
    if '://' in _named_last(runner.work_dir):
        return None  # as mmengine does
    found, passed_over = newest_whole(runner.work_dir, folders, trusts())
    for reason in passed_over:
        runner.logger.warning(f'Not resumed from: {reason}')
    if found is None:
        listing = ''.join(f'\n- {reason}' for reason in passed_over)
        raise CheckpointError(
            f'there is no checkpoint to resume from in {", ".join(folders)}'
            + (f'; what is there cannot be used:{listing}\n' if listing else '. ')
            + 'To start from the beginning, leave out --resume'
        )
    runner.logger.info(f'Resuming from {found}')
    return str(found)


def _lock(folder: str, patience_sec: float) -> str | None:
    until = time.monotonic() + patience_sec
    while True:
        try:
            return lock_folder(folder)
        except WorkDirInUse:
            if time.monotonic() > until:
                raise
            time.sleep(1)


def _newest_of_this_run(runner: Runner, folders: list[str], started: Path) -> str | None:
    """What a restarted group resumes from; checkpoints of an earlier run may lie in the same folder."""
    after = started.stat().st_mtime_ns if started.is_file() else 0
    found, passed_over = newest_whole(runner.work_dir, folders, trusts(), after)
    for reason in passed_over:
        runner.logger.warning(f'Not resumed from: {reason}')
    if found is None:
        runner.logger.warning('Restarted before the first checkpoint: beginning again as the run was begun')
        return None
    runner.logger.info(f'Restarted: resuming from {found}')
    return str(found)


def _local_folders(runner: Runner) -> list[str]:
    """The work dir, and the folders below ``out_dir`` of hooks that save elsewhere."""
    folders = [runner.work_dir]
    for hook in runner.hooks:
        out_dir = str(getattr(hook, 'out_dir', None) or '') if isinstance(hook, CheckpointHook) else ''
        if out_dir and '://' not in out_dir and out_dir != runner.work_dir:
            folders.append(osp.join(out_dir, osp.basename(runner.work_dir.rstrip(osp.sep))))
    return list(dict.fromkeys(folders))


def _named_last(work_dir: str) -> str:
    record = osp.join(work_dir, 'last_checkpoint')
    if not osp.isfile(record):
        return ''
    with open(record) as file:
        return file.read()
