"""All workers take a step, or none does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resist_mm.exchange import Transport

__all__ = ['ExchangeRefused', 'Guard']


class ExchangeRefused(RuntimeError):
    """Another worker could not go on, so that the exchange was rolled back on all."""


class Guard:
    """Lets the workers vote, in one tiny message, before anything is changed.

    Args:
        transport (Transport): Carries the votes.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @contextmanager
    def all_or_none(self, step: str) -> Iterator[None]:
        """What is done inside has to succeed on all workers; to be entered by all of them, sending nothing inside.

        Args:
            step (str): What it is, for the error.

        Raises:
            ExchangeRefused: If it failed on another worker.
            Exception: Whatever was raised inside, after the others have been told.
        """
        try:
            yield
        except Exception:
            self.transport.vote(False)
            raise
        refusing = self.transport.vote(True)
        if refusing:
            workers = ', '.join(map(str, refusing))
            raise ExchangeRefused(
                f'worker {workers} could not go on when {step}, and says why in its own error. The exchange was '
                'rolled back: all workers have the values from before it'
            )
