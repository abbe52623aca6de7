"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

__all__ = ['remove_leftovers', 'write_atomically', 'write_checkpoint', 'write_text']

LEFTOVER = re.compile(r'.+\.\d+\.tmp')


def write_atomically(path: str | Path, write: Callable[[BinaryIO], Any]) -> int:
    """Write a file under a temporary name in the same folder, and rename it once it is on the disk.

    Whatever happens in between, ``path`` is what it was before or the whole new file: the content is synced before
    the rename, and the folder after it, so that this also holds if the machine loses power.

    Args:
        path (str or Path): The file to write or replace. Its folder is created.
        write (Callable): Called with the open temporary file.

    Returns:
        int: Size of the file in bytes.

    Raises:
        OSError: If the file cannot be written, such as for lack of space. The temporary file is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
    try:
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f'{path} cannot be written ({error.strerror}); what was there before is untouched'
            ) from error
        raise
    _sync_folder(path.parent)
    return size


def write_checkpoint(checkpoint: dict, path: str | Path) -> int:
    """Save a checkpoint atomically with ``torch.save``.

    Returns:
        int: Size of the file in bytes.

    Raises:
        OSError: If it cannot be written.
    """

    def save(file: BinaryIO) -> None:
        sink = _Sink(file)
        torch.save(checkpoint, cast(BinaryIO, sink))  # it needs no more than write and flush
        if sink.error is not None:
            raise sink.error

    return write_atomically(path, save)


def write_text(text: str, path: str | Path) -> None:
    """Write a short text atomically, such as ``last_checkpoint``."""
    write_atomically(path, lambda file: file.write(text.encode()))


def remove_leftovers(folder: str | Path) -> list[Path]:
    """Remove the temporary files of writers that were killed; only while no other process writes there.

    Returns:
        list[Path]: What has been removed.
    """
    found = [path for path in Path(folder).glob('*.tmp') if LEFTOVER.fullmatch(path.name)]
    for path in found:
        path.unlink(missing_ok=True)
    return found


class _Sink:
    """Hands on what ``torch.save`` writes, and keeps an error until it is done.

    torch writes in C++, where an exception of ``write`` becomes a RuntimeError that hides the reason.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return len(data)

    def flush(self) -> None:
        """Nothing: the file is flushed before it is synced."""


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:  # some file systems cannot sync a folder
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
