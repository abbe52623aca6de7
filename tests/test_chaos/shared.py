"""What the workers of a run and their launcher know of each other: a page of memory."""

from __future__ import annotations

import mmap
import time

__all__ = ['Shared']

MOST_WORKERS, MOST_FAULTS = 8, 8


class Shared:
    """Counters in memory that forked processes share; each is written by one process.

    Attributes:
        iteration: By worker, how many iterations it has begun, of the whole training; 0 before the first.
        resumed: By worker, the iteration it began with, plus 1; 0 while it does not know.
        reached: By fault, when its point was reached (milliseconds, monotonic); 0: not yet.
        saved: The iteration of the last checkpoint that was on the disk under its name.
    """

    def __init__(self) -> None:
        self._page = memoryview(mmap.mmap(-1, mmap.PAGESIZE)).cast('q')
        self.iteration = self._page[:MOST_WORKERS]
        self.resumed = self._page[MOST_WORKERS : 2 * MOST_WORKERS]
        self.reached = self._page[2 * MOST_WORKERS : 2 * MOST_WORKERS + MOST_FAULTS]
        self._saved = self._page[2 * MOST_WORKERS + MOST_FAULTS :]

    @property
    def saved(self) -> int:
        return self._saved[0]

    @saved.setter
    def saved(self, iteration: int) -> None:
        self._saved[0] = iteration

    def reach(self, fault: int) -> None:
        """Note that the point of a fault has been reached."""
        self.reached[fault] = int(time.monotonic() * 1000)
