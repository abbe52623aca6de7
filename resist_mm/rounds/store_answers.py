"""Dealing with a store whose host may be silent or gone."""

from __future__ import annotations

import atexit
import threading
import time
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from .whereabouts import ANSWER_SEC, LostWorker

__all__ = ['Heartbeat', 'StoreAnswers']

BEAT_SEC = 0.5


class StoreAnswers:
    """Asks a store, but does not wait for good for one whose host is silent.

    Args:
        poll_sec (float): How often to look, in seconds, whether a patient question makes progress.
    """

    def __init__(self, poll_sec: float) -> None:
        self._poll_sec = poll_sec
        self._progress = time.monotonic()

    def progress(self) -> None:
        """To be called by a patient question each time that the store has answered a part of it."""
        self._progress = time.monotonic()

    def ask(self, question: Callable[[], Any], patient: bool = False) -> Any:
        """Do something with the store, in a thread of its own.

        Args:
            question (Callable): What to do; returns the answer.
            patient (bool): Whether it may take any time, as long as it makes progress. Defaults to False.

        Raises:
            LostWorker: If the store fails or does not answer.
        """
        answer: list[Any] = []
        thread = threading.Thread(target=_noting(question, answer), daemon=True)
        self.progress()
        thread.start()
        thread.join(ANSWER_SEC)
        while patient and thread.is_alive() and time.monotonic() < self._progress + ANSWER_SEC:
            thread.join(self._poll_sec)
        if answer and not isinstance(answer[0], Exception):
            return answer[0]
        why = str(answer[0]) if answer else f'no answer for {ANSWER_SEC} s'
        raise LostWorker(f'the store of the process group is lost, and with it who is there: {why}')


class Heartbeat:
    """Sets a key of a store twice a second, from a thread of its own."""

    def __init__(self, store: dist.Store, key: str) -> None:
        self._store, self._key = store, key
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        atexit.register(self.stop)

    def stop(self) -> None:
        """End the thread."""
        self._ended.set()
        self._thread.join(2 * BEAT_SEC)
        atexit.unregister(self.stop)

    def _run(self) -> None:
        number = 0
        while not self._ended.is_set():
            try:
                self._store.set(self._key, str(number))
            except (RuntimeError, OSError):
                return  # the store is gone; the next exchange finds out
            number += 1
            self._ended.wait(BEAT_SEC)


def _noting(question: Callable[[], Any], answer: list[Any]) -> Callable[[], None]:
    def ask() -> None:
        try:
            answer.append(question())
        except (RuntimeError, OSError) as error:
            answer.append(error)

    return ask
