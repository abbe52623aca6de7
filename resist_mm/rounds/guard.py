"""A step succeeds on all workers, or none goes on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from resist_mm.exchange import Transport

__all__ = ['ExchangeRefused', 'Guard', 'Vote']

FINE, FAILED, BAD_NUMBERS = range(3)


class ExchangeRefused(RuntimeError):
    """The exchange failed on another worker and was rolled back on all."""


@dataclass
class Vote:
    """What a worker says in a vote, and what came out.

    Attributes:
        complaints: What is wrong with the numbers of this worker, in words; to be set before the vote.
        bad_workers: The workers with complaints, the same on all workers; set by the vote.
    """

    complaints: list[str] = field(default_factory=list)
    bad_workers: list[int] = field(default_factory=list)


class Guard:
    """Lets the workers vote, with one tiny all-reduce, before anything is changed.

    Args:
        transport (Transport): Collects the votes.
    """

    def __init__(self, transport: Transport) -> None:
        self.transport = transport

    @contextmanager
    def all_or_none(self, step: str) -> Iterator[Vote]:
        """Require that the body succeeds on all workers.

        All workers must enter it, and the body must not communicate. Complaints about numbers are no failure: the
        body puts them into the vote, and all workers learn whose numbers are bad.

        Args:
            step (str): Name of the step, for the error.

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
        ballots = self.transport.vote(BAD_NUMBERS if vote.complaints else FINE)
        refusing = [worker for worker, ballot in enumerate(ballots) if ballot == FAILED]
        if refusing:
            workers = ', '.join(map(str, refusing))
            raise ExchangeRefused(
                f'worker {workers} failed while {step}; its own error says why. The exchange was rolled back: all '
                'workers keep the values from before it'
            )
        vote.bad_workers = [worker for worker, ballot in enumerate(ballots) if ballot == BAD_NUMBERS]
