"""Calls a function at the named steps of exchanges and saves, in this process only."""

from __future__ import annotations

import builtins
import os
import re
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from resist_mm.checkpoint import files
from resist_mm.exchange import Transport
from resist_mm.hooks import round_hook, safe_checkpoint
from resist_mm.rounds.staging import StagedExchange

__all__ = ['watch']

CHECKPOINT = re.compile(r'iter_(\d+)\.pth')


def watch(reach: Callable[[str], None], saved: Callable[[int], None]) -> None:
    """From now on, call ``reach`` with the name of every step, and ``saved`` with every checkpoint's iteration."""
    _wrap(StagedExchange, '__init__', reach, before='exchange.prepare')
    _wrap(Transport, 'vote', reach, before='exchange.vote', after='exchange.voted')
    _wrap(Transport, 'run', reach, before='exchange.transfer', after='exchange.arrived')
    _wrap(Transport, '_deliver', reach, before='exchange.deliver')
    _wrap(StagedExchange, 'commit', reach, before='exchange.commit', after='exchange.committed')
    _wrap(round_hook, 'settle_buffers', reach, before='exchange.settle')
    _wrap(safe_checkpoint, '_remove', reach, before='save.prune')
    files.os = _WatchedOS(reach)  # type: ignore[assignment]
    files.open = lambda path, mode: _WatchedFile(path, mode, reach)  # type: ignore[attr-defined]
    write_checkpoint = safe_checkpoint.write_checkpoint

    def writes(checkpoint: dict, path: Any) -> int:
        size = write_checkpoint(checkpoint, path)
        match = CHECKPOINT.fullmatch(Path(path).name)
        if match:
            saved(int(match[1]))
        return size

    safe_checkpoint.write_checkpoint = writes


def _wrap(owner: Any, name: str, reach: Callable[[str], None], before: str = '', after: str = '') -> None:
    function = getattr(owner, name)

    @wraps(function)
    def reaching(*args: Any, **kwargs: Any) -> Any:
        if before:
            reach(before)
        result = function(*args, **kwargs)
        if after:
            reach(after)
        return result

    setattr(owner, name, reaching)


def _prefix(path: Any) -> str:
    return 'save.' if CHECKPOINT.search(Path(path).name) else 'save.name.'


class _WatchedOS:
    """Module os, for the steps of one file at a time."""

    def __init__(self, reach: Callable[[str], None]) -> None:
        self._reach, self._synced = reach, False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, handle: int) -> None:
        folder = os.path.isdir(f'/proc/self/fd/{handle}')
        name = os.readlink(f'/proc/self/fd/{handle}')
        self._reach('save.folder' if folder else f'{_prefix(name)}fsync')
        os.fsync(handle)

    def replace(self, source: Any, target: Any) -> None:
        self._reach(f'{_prefix(target)}replace')
        os.replace(source, target)


class _WatchedFile:
    """A file that is being written."""

    def __init__(self, path: Any, mode: str, reach: Callable[[str], None]) -> None:
        self._prefix, self._reach = _prefix(path), reach
        reach(f'{self._prefix}open')
        self._file = builtins.open(path, mode)  # noqa: SIM115  (closed by the with statement that opens it)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _WatchedFile:
        return self

    def __exit__(self, *args: Any) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        """In two halves, the first of which is with the operating system when the point is reached."""
        half = len(data) // 2
        self._file.write(data[:half])
        self._file.flush()
        self._reach(f'{self._prefix}write')
        return half + self._file.write(data[half:])
