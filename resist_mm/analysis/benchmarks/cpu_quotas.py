"""A share of a processor for every worker, so that one machine shows workers of unequal speed.

Control groups of Linux, version 2 (``cpu.max``) or 1 (``cpu.cfs_quota_us``), as root. They are removed at the end,
and no other process is touched. Where that is not possible, a worker sleeps after each iteration for as long as a
processor of that share would have taken more (a duty cycle).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

__all__ = ['Quota', 'cpu_quotas']

ROOT = Path('/sys/fs/cgroup')
PERIOD_US = 20_000
WEIGHT = 16  # of a group against another process: the quota is what binds, also on a machine that does other work


class Quota:
    """The share of a processor that a worker has.

    Args:
        share (float): Of one core; above 1 means several.
        folder (Path, optional): Its control group. Defaults to None: there is none, and the worker has to sleep.
    """

    def __init__(self, share: float, folder: Path | None = None) -> None:
        self.share, self.folder = share, folder
        self._used = 0.0

    def enter(self) -> None:
        """From here on this process has its share."""
        if self.folder is not None:
            (self.folder / 'cgroup.procs').write_text(str(os.getpid()))
        self._used = time.process_time()

    def after_iteration(self) -> None:
        """Sleep for the rest of the share, if nothing else holds this process back."""
        if self.folder is None:
            now = time.process_time()
            time.sleep((now - self._used) * (1 / min(1.0, self.share) - 1))
            self._used = now


@contextmanager
def cpu_quotas(shares: Sequence[float]) -> Iterator[list[Quota]]:
    """Make a control group for each share, and remove them at the end; where that is not possible, duty cycles."""
    folders: list[Path] = []
    parent, version = _parent()
    try:
        for worker, share in enumerate(shares if parent is not None else ()):
            assert parent is not None
            folder = parent / f'resist_mm_{os.getpid()}_{worker}'
            folder.mkdir()
            folders.append(folder)
            _limit(folder, version, share)
        yield [Quota(share, folders[worker] if folders else None) for worker, share in enumerate(shares)]
    finally:
        for folder in folders:
            _remove(folder)


def _parent() -> tuple[Path | None, int]:
    """Where groups can be made, and the version of control groups; None: nowhere."""
    if os.geteuid() != 0:
        return None, 0
    controllers = ROOT / 'cgroup.controllers'
    if controllers.is_file() and 'cpu' in controllers.read_text().split():
        with suppress(OSError):
            (ROOT / 'cgroup.subtree_control').write_text('+cpu')
            return ROOT, 2
    if (ROOT / 'cpu/cpu.cfs_quota_us').is_file() and os.access(ROOT / 'cpu', os.W_OK):
        return ROOT / 'cpu', 1
    return None, 0


def _limit(folder: Path, version: int, share: float) -> None:
    quota = round(share * PERIOD_US)
    if version == 2:
        (folder / 'cpu.max').write_text(f'{quota} {PERIOD_US}')
        (folder / 'cpu.weight').write_text(str(100 * WEIGHT))
    else:
        (folder / 'cpu.cfs_period_us').write_text(str(PERIOD_US))
        (folder / 'cpu.cfs_quota_us').write_text(str(quota))
        (folder / 'cpu.shares').write_text(str(1024 * WEIGHT))


def _remove(folder: Path) -> None:
    for _ in range(50):  # the last process may still be leaving
        with suppress(OSError):
            folder.rmdir()
            return
        time.sleep(0.1)
