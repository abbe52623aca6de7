"""Checkpoints that are always whole."""

from __future__ import annotations

import os.path as osp
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend
from mmengine.hooks import CheckpointHook
from mmengine.runner import BaseLoop, Runner, save_checkpoint

from resist_mm.checkpoint import (
    WriteQueue,
    add_digest,
    remove_leftovers,
    snapshot,
    verify_local_files,
    write_checkpoint,
    write_text,
)
from resist_mm.checkpoint.allowed import allowed_globals
from resist_mm.registry import HOOKS
from resist_mm.rounds.arguments import check_count, check_flag

from .start_of_run import begin_run

__all__ = ['SafeCheckpointHook']


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with checkpoints that are whole at any moment.

    What holds, wherever the process is killed and whatever cannot be written:

    - A checkpoint is written under a temporary name in its folder, synced and renamed. The same holds for the best
      one and for ``last_checkpoint``, which is written after what it names.
    - Only then are the checkpoints deleted that it replaces: there is always one to resume from.
    - The digest of the model is in ``meta['model_sha256']`` and compared when the checkpoint is loaded.
    - Only one job at a time trains in a work dir.
    - ``resume=True`` without ``load_from`` takes the newest checkpoint that can be read whole, and is an error if
      there is none.

    Names, contents and all arguments are mmengine's. On anything but a local file system the files are written as
    mmengine does, but in the order above.

    Args:
        background (bool): Whether training goes on while a checkpoint is written. It stops for a copy in host
            memory, and for the checkpoint before to be written, since there is never more than one copy. An error
            is raised at the next checkpoint or at the end of training. Defaults to False.
        **kwargs: Arguments of ``CheckpointHook``.

    Raises:
        ValueError: If ``background`` or ``max_keep_ckpts`` is out of range.
    """

    keep_ckpt_ids: deque

    def __init__(self, *args: Any, background: bool = False, **kwargs: Any) -> None:
        check_flag('SafeCheckpointHook.background', background)
        super().__init__(*args, **kwargs)
        if self.max_keep_ckpts != -1 or isinstance(self.max_keep_ckpts, bool | float):
            check_count('SafeCheckpointHook.max_keep_ckpts (-1 for all)', self.max_keep_ckpts)
        self.background = background
        self._queue = WriteQueue(background)
        self._saving = False
        self._written = 0
        self._checked = False

    def before_run(self, runner: Runner) -> None:
        """Verify what will be loaded; before training also claim the work dir and choose what to resume from.

        Raises:
            WorkDirInUse: If another job trains there.
            CheckpointError: If there is nothing to resume from.
        """
        verify_local_files()
        if isinstance(runner._train_loop, BaseLoop):  # built by now if the run is going to train
            begin_run(runner)

    def before_train(self, runner: Runner) -> None:
        """Find the folder, and remove what killed runs have left there."""
        super().before_train(runner)
        self._local = isinstance(self.file_backend, LocalBackend)
        if not self._local:
            runner.logger.warning(
                f'{self.out_dir} is not a local folder: whether a checkpoint there can be incomplete is up to '
                f'{type(self.file_backend).__name__}'
            )
        elif is_main_process():
            for folder in {self.out_dir, runner.work_dir}:
                for path in remove_leftovers(folder):
                    runner.logger.info(f'Removed {path}, which a killed run had not finished')

    def after_train(self, runner: Runner) -> None:
        """Wait for the last checkpoint; publish."""
        self._queue.wait()
        with patch('mmengine.runner.save_checkpoint', partial(self._store, runner)):
            super().after_train(runner)

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        outdated: list[int] = []
        if self.max_keep_ckpts > 0 and not (self.keep_ckpt_ids and self.keep_ckpt_ids[-1] == step):
            listed = [*self.keep_ckpt_ids, step]
            self.keep_ckpt_ids = deque(listed, self.max_keep_ckpts)
            outdated = [old for old in listed if old not in self.keep_ckpt_ids]
            # outdated ones stay listed in this checkpoint: if the run is killed before they are deleted,
            # mmengine deletes them when it resumes
            runner.message_hub.update_info('keep_ckpt_ids', listed)
        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        with self._writing(runner):
            written = self._written
            runner.save_checkpoint(
                self.out_dir,
                name,
                self.file_client_args,
                save_optimizer=self.save_optimizer,
                save_param_scheduler=self.save_param_scheduler,
                meta=meta,
                by_epoch=self.by_epoch,
                backend_args=self.backend_args,
                **self.args,
            )
            if is_main_process() and self._written == written:
                raise RuntimeError(
                    f'{type(runner).__name__}.save_checkpoint does not write with mmengine.runner.save_checkpoint'
                    ", so that SafeCheckpointHook cannot make it safe: use type='CheckpointHook'"
                )
        if outdated:
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        if is_main_process():
            self._queue.put(partial(write_text, self.last_ckpt, osp.join(runner.work_dir, 'last_checkpoint')))
            for old in outdated:
                path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(old))
                self._queue.put(partial(_remove, self.file_backend, path))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        backend = self.file_backend
        postponed = _PostponedRemovals(backend)
        with patch.object(self, 'file_backend', postponed), self._writing(runner):
            super()._save_best_checkpoint(runner, metrics)
        best = [getattr(self, 'best_ckpt_path', None), *getattr(self, 'best_ckpt_path_dict', {}).values()]
        for path in postponed.paths:
            if path not in best:
                self._queue.put(partial(_remove, backend, path))

    @contextmanager
    def _writing(self, runner: Runner) -> Iterator[None]:
        """Let ``runner.save_checkpoint`` write as this hook does, and log for how long training has stopped."""
        if self._saving:  # the last one is saved again after a new best one
            yield
            return
        written, began = self._written, time.perf_counter()
        self._saving = True
        try:
            with patch('mmengine.runner.runner.save_checkpoint', partial(self._write, runner)):
                yield
        finally:
            self._saving = False
        if self._written > written:
            goes_on = ', and they are written while it goes on' if self.background else ''
            stopped = time.perf_counter() - began
            runner.logger.info(f'Training stopped for {stopped:.3f} s to save checkpoints{goes_on}')

    def _write(self, runner: Runner, checkpoint: dict, filename: str, **backend: Any) -> None:
        self._written += 1
        if self.background:
            self._queue.wait()
            checkpoint = snapshot(checkpoint)
        self._queue.put(partial(self._store, runner, checkpoint, filename, **backend))

    def _store(self, runner: Runner, checkpoint: dict, filename: str, **backend: Any) -> None:
        began = time.perf_counter()
        add_digest(checkpoint)
        digested = time.perf_counter()
        try:
            if not self._local:
                save_checkpoint(checkpoint, filename, **backend)
                return
            size = write_checkpoint(checkpoint, filename)
        except Exception as error:
            runner.logger.error(f'{filename} could not be saved: {error}')
            raise
        ended = time.perf_counter()
        runner.logger.info(
            f'Saved {filename}, {size / 1e6:.2f} MB, in {ended - began:.3f} s, of which {digested - began:.3f} s '
            'for the digest'
        )
        self._warn_of_unsafe(runner, filename)

    def _warn_of_unsafe(self, runner: Runner, filename: str) -> None:
        if self._checked:
            return
        self._checked = True
        unsafe = _unsafe_names(filename)
        if unsafe:
            runner.logger.warning(
                f'{filename} holds objects of {", ".join(unsafe)}. It can be loaded only with --trust-checkpoint. '
                'They come from the meta information of the data set, from the message hub or from a hook'
            )


def _unsafe_names(filename: str) -> list[str]:
    """Classes and functions in a checkpoint for which it would have to be trusted."""
    with torch.serialization.safe_globals(allowed_globals()):
        return torch.serialization.get_unsafe_globals_in_checkpoint(filename)


def _remove(backend: Any, path: str) -> None:
    if backend.isfile(path):
        backend.remove(path)
    elif backend.isdir(path):  # as DeepSpeed saves
        backend.rmtree(path)


class _PostponedRemovals:
    """A file backend that only notes what is to be removed."""

    def __init__(self, backend: Any) -> None:
        self._backend = backend
        self.paths: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def remove(self, path: str) -> None:
        self.paths.append(path)

    def rmtree(self, path: str) -> None:
        self.paths.append(path)
