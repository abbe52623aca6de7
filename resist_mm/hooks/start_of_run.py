"""Before training: claim the work dir, and choose the checkpoint to resume from."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from resist_mm.checkpoint import CheckpointError, WorkDirInUse, lock_folder, newest_whole
from resist_mm.checkpoint.loading import trusts

__all__ = ['begin_run']


def begin_run(runner: Runner) -> None:
    """Claim the folders of a run; if it resumes without a path, choose the newest checkpoint that is whole.

    To be called by all workers; worker 0 decides. Calling it again does nothing.

    Raises:
        OSError: If the work dir cannot be used.
        WorkDirInUse: If another job trains in the work dir.
        CheckpointError: If there is no checkpoint to resume from, or one has to be trusted first.
    """
    decided: list[Any] = [None, None]
    if is_main_process():
        try:
            decided[0] = _decide(runner)
        except (CheckpointError, OSError, WorkDirInUse) as error:
            decided[1] = error
    broadcast_object_list(decided)
    resume_from, problem = decided
    if problem is not None:
        raise problem
    if resume_from is not None:
        runner._load_from = resume_from


def _decide(runner: Runner) -> str | None:
    folders = _local_folders(runner)
    for folder in folders:
        problem = lock_folder(folder)
        if problem is not None:
            runner.logger.warning(problem)
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
