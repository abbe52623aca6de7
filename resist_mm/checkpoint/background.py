"""Writing while training goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

__all__ = ['WriteQueue']


class WriteQueue:
    """Carries out actions in order, at once or in a thread; after a failure no further one.

    The interpreter does not exit before the thread is done, whether it exits normally or with an exception.

    Args:
        background (bool): Whether to use a thread.
    """

    def __init__(self, background: bool) -> None:
        self._pool = ThreadPoolExecutor(1, 'checkpoint') if background else None
        self._pending: list[Future] = []
        self._failed = False

    def put(self, action: Callable[[], Any]) -> None:
        """Carry out an action after those before it.

        Raises:
            Exception: Of the action, if it is carried out at once.
        """
        if self._pool is None:
            action()
        else:
            self._pending.append(self._pool.submit(self._run, action))

    def wait(self) -> None:
        """Wait until all is done.

        Raises:
            Exception: Of the action that failed.
        """
        pending, self._pending = self._pending, []
        wait(pending)  # those after a failed one as well: they must find that it has failed
        self._failed = False
        for future in pending:
            future.result()

    def _run(self, action: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            action()
        except BaseException:
            self._failed = True
            raise
