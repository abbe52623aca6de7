"""A step succeeds on all workers, or none goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from resist_mm.exchange import Transport

__all__ = ['ExchangeRefused', 'Guard']


class ExchangeRefused(RuntimeError):
    """The exchange failed on another worker and was rolled back on all."""


class Guard:
    """Lets the workers vote, with one tiny all-reduce, before anything is changed.

    Args:
        transport (Transport): Collects the votes.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @contextmanager
    def all_or_none(self, step: str) -> Iterator[None]:
        """Require that the body succeeds on all workers.

        All workers must enter it, and the body must not communicate.

        Args:
            step (str): Name of the step, for the error.

        Raises:
            ExchangeRefused: If the body failed on another worker.
            Exception: Whatever the body raised on this worker, once the others have been told.
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
                f'worker {workers} failed while {step}; its own error says why. The exchange was rolled back: all '
                'workers keep the values from before it'
            )
