"""Lets all workers agree on how fast each of them is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resist_mm.partition import Measured, Speeds

from .agreement import tell_all
from .guard import Guard

__all__ = ['AgreedSpeeds']


class AgreedSpeeds:
    """Measures this worker, and tells all workers every few rounds what each has measured.

    From then on the speeds are data, the same on all workers and kept in checkpoints: a resumed run deals its
    blocks as the run before would have until the next agreement. The first round of a process is slower than
    others and is not measured.

    Args:
        num_workers (int): Number of workers.
        interval (int): Number of rounds after which they agree anew.

    Attributes:
        current: The speeds that they agreed on last; None: none yet.
        measured: Of this worker since then: iterations, their seconds, and the sum of the blocks held in each.
    """

    def __init__(self, num_workers: int, interval: int) -> None:
        self.num_workers, self.interval = num_workers, interval
        self.current: Speeds | None = None
        self.measured = (0, 0.0, 0)
        self._is_first = True

    def see(self, iterations: int, seconds: float, hand: int) -> None:
        """Take what this worker has trained in a round.

        Args:
            iterations (int): Number of iterations.
            seconds (float): Seconds of all of them.
            hand (int): Number of partitioned blocks that it held.
        """
        if self._is_first:
            self._is_first = False
        elif iterations and seconds > 0:
            before = self.measured
            self.measured = (before[0] + iterations, before[1] + seconds, before[2] + iterations * hand)

    def agree(self, round_index: int, guard: Guard) -> None:
        """At the end of a round in which it is due, agree; unless a worker has measured nothing.

        To be called by all workers before the exchange, which then deals by the new speeds. If the exchange fails,
        the speeds stay agreed.

        Args:
            round_index (int): Index of the round that ends.
            guard (Guard): Of this worker.
        """
        if (round_index + 1) % self.interval:
            return
        iterations, seconds, hands = self.measured
        with guard.all_or_none('measuring speeds') as vote:
            vote.has_news = iterations > 0
        if len(vote.with_news) < self.num_workers:
            return
        told = tell_all((seconds / iterations, hands / iterations))
        measured = [Measured(*of_worker) for of_worker in told]
        self.current = Speeds.first(measured) if self.current is None else self.current.updated(measured)
        self.measured = (0, 0.0, 0)

    def begin_anew(self, num_workers: int) -> None:
        """Go on with fewer workers, of which some may have missed the last agreement: with none until the next."""
        self.num_workers, self.current = num_workers, None

    def state_dict(self) -> dict[str, Any]:
        """The speeds, to keep in checkpoints; empty before the first agreement."""
        return {} if self.current is None else self.current.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`state_dict` returned; with another number of workers begin anew."""
        if state and len(state['seconds']) == self.num_workers:
            self.current = Speeds.from_state(state)
