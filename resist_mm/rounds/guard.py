"""A step succeeds on all workers, or none goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from resist_mm.exchange import Transport

__all__ = ['ExchangeRefused', 'Guard', 'Vote']

FINE, FAILED, NEWS = range(3)
ROLLED_BACK = 'The exchange was rolled back: all workers keep the values from before it'


class ExchangeRefused(RuntimeError):
    """The exchange failed on another worker and was rolled back on all."""


@dataclass
class Vote:
    """What a worker says in a vote, and what came out.

    Attributes:
        has_news: Whether this worker has something to tell the others, such as that its numbers are bad; to be
            set before the vote.
        with_news: The workers that have, the same on all workers; set by the vote.
    """

    has_news: bool = False
    with_news: list[int] = field(default_factory=list)


class Guard:
    """Lets the workers vote, with one tiny all-reduce, before anything is changed.

    Args:
        transport (Transport): Collects the votes.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @contextmanager
    def all_or_none(self, step: str, otherwise: str = ROLLED_BACK) -> Iterator[Vote]:
        """Require that the body succeeds on all workers.

        All workers must enter it, and the body must not communicate. If a worker has something to tell the
        others, the body says so in the vote, and all learn which workers have; telling it is up to the caller.

        Args:
            step (str): Name of the step, for the error.
            otherwise (str): What has become of the values if it fails, for the error.

        Raises:
            ExchangeRefused: If the body failed on another worker.
            Exception: Whatever the body raised on this worker, once the others have been told.
        """
        vote = Vote()
        try:
            yield vote
        except Exception:
            self.transport.vote(FAILED)
            raise
        ballots = self.transport.vote(NEWS if vote.has_news else FINE)
        refusing = [worker for worker, ballot in enumerate(ballots) if ballot == FAILED]
        if refusing:
            workers = ', '.join(map(str, refusing))
            raise ExchangeRefused(f'worker {workers} failed while {step}; its own error says why. {otherwise}')
        vote.with_news = [worker for worker, ballot in enumerate(ballots) if ballot == NEWS]
