"""One job in a folder at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import IO

__all__ = ['WorkDirInUse', 'lock_folder']

LOCK_NAME = 'in_use.lock'

# folder: the open file, whose lock ends with the process, however it ends
_held: dict[Path, IO[str]] = {}


class WorkDirInUse(RuntimeError):
    """Another job writes to the folder."""


def lock_folder(folder: str | Path) -> str | None:
    """Claim a folder for this process until it ends; to be called by one worker of a job.

    The lock is the kernel's (``flock``): it ends with the process, also if that is killed. Claiming a folder again
    in the same process does nothing.

    Args:
        folder (str or Path): Created if it is not there.

    Returns:
        str or None: Why there is no lock, on a file system that cannot lock.

    Raises:
        WorkDirInUse: If another process has claimed it. The message names it.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = open(folder / LOCK_NAME, 'a+')  # noqa: SIM115  (open as long as the process lives)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = _holder(file)
        file.close()
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            raise WorkDirInUse(
                f'{folder} is in use by {holder}. Stop that job, wait for it, or choose another --work-dir'
            ) from None
        return f'{folder} cannot be locked ({error.strerror}): make sure that no other job writes there'
    file.seek(0)
    file.truncate()
    json.dump(dict(host=socket.gethostname(), pid=os.getpid()), file)
    file.flush()
    _held[folder] = file
    return None


def _holder(file: IO[str]) -> str:
    file.seek(0)
    try:
        found = json.loads(file.read())
        return f'process {found["pid"]} on {found["host"]}'
    except (ValueError, KeyError, TypeError):  # it is just writing its name
        return 'another process'


def _forget() -> None:
    # a forked loader process would keep the lock after this process is gone
    for file in _held.values():
        with suppress(OSError):
            os.close(file.fileno())
    _held.clear()


os.register_at_fork(after_in_child=_forget)
