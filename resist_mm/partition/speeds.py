"""How fast each worker is, learnt from the seconds of its iterations: plain arithmetic, the same everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import sqrt
from typing import Any

from .hands import hands_for

__all__ = ['Measured', 'Speeds']

SMOOTHING = 0.5
SHARED_GUESS = 1.0
SHARED_RANGE = (0.1, 1000.0)
DISTINCT_HANDS = 0.5  # two mean sizes of a worker's hand that differ by less say nothing about the shared part


@dataclass(frozen=True)
class Measured:
    """What a worker has measured since the last time.

    Attributes:
        seconds: Seconds of an iteration, its data included; above 0.
        hand: Number of partitioned blocks that it held, a mean over iterations.
    """

    seconds: float
    hand: float


@dataclass(frozen=True)
class Speeds:
    """The speeds that all workers have agreed on.

    An iteration of worker w with d blocks is taken to last ``seconds[w] * (shared + d)``: blocks cost the same,
    and ``shared`` is what everything else in the network costs, in blocks. It is learnt as well, from workers
    whose hands have changed, and is 1 until then; a wrong value only makes hands approach their final sizes more
    slowly.

    Attributes:
        seconds: Of each worker: seconds for one block, smoothed.
        shared: Cost of the shared part of the network in blocks, smoothed.
        shared_known: Whether it has been learnt.
        last: What each worker measured last.
    """

    seconds: tuple[float, ...]
    shared: float
    shared_known: bool
    last: tuple[Measured, ...]

    @classmethod
    def first(cls, measured: Sequence[Measured]) -> Speeds:
        """The speeds after the first measurement."""
        seconds = tuple(of.seconds / (SHARED_GUESS + of.hand) for of in measured)
        return cls(seconds, SHARED_GUESS, False, tuple(measured))

    def updated(self, measured: Sequence[Measured]) -> Speeds:
        """The speeds after one more measurement, which counts one half."""
        found = _shared_cost(self.last, measured)
        shared, known = self.shared, self.shared_known or found is not None
        if found is not None:
            shared = found if not self.shared_known else _smoothed(shared, found)
        seconds = []
        for before, last, now in zip(self.seconds, self.last, measured, strict=True):
            # the same seconds of an iteration with the last hand, whatever the shared part costs
            before = before * (self.shared + last.hand) / (shared + last.hand)
            seconds.append(_smoothed(before, now.seconds / (shared + now.hand)))
        return Speeds(tuple(seconds), shared, known, tuple(measured))

    def iteration_sec(self, worker: int, hand: int) -> float:
        """Seconds of an iteration of a worker that holds a number of blocks."""
        return self.seconds[worker] * (self.shared + hand)

    def hands(self, num_blocks: int, min_blocks: int) -> list[int]:
        """How many blocks each worker gets, so that the slowest iteration is as short as possible."""
        return hands_for(self.seconds, self.shared, num_blocks, min_blocks)

    def iterations(self, hands: Sequence[int], most: int) -> list[int]:
        """How many iterations each worker trains, so that all rounds last equally long.

        Args:
            hands (Sequence[int]): Number of blocks that each worker holds.
            most (int): Iterations of the fastest worker.

        Returns:
            list[int]: By worker, from 1 to ``most``.
        """
        of_iteration = [self.iteration_sec(worker, hand) for worker, hand in enumerate(hands)]
        return [max(1, round(most * min(of_iteration) / seconds)) for seconds in of_iteration]

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, to keep in checkpoints."""
        return {**asdict(self), 'seconds': list(self.seconds), 'last': [asdict(of) for of in self.last]}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Speeds:
        """What :meth:`state_dict` was called on."""
        last = tuple(Measured(**of) for of in state['last'])
        return cls(tuple(state['seconds']), state['shared'], state['shared_known'], last)


def _smoothed(before: float, now: float) -> float:
    return before + SMOOTHING * (now - before)


def _shared_cost(before: Sequence[Measured], now: Sequence[Measured]) -> float | None:
    """The cost of the shared part that explains best what two sizes of hands took; None: no hand has changed.

    A worker of constant speed has ``t1 * (shared + d2) = t2 * (shared + d1)``. Least squares, in relative terms.
    """
    numerator = denominator = 0.0
    some = False
    for a, b in zip(before, now, strict=True):
        if abs(a.hand - b.hand) < DISTINCT_HANDS:
            continue
        some = True
        scale = sqrt(a.seconds * b.seconds)
        x, y = (a.seconds - b.seconds) / scale, (b.seconds * a.hand - a.seconds * b.hand) / scale
        numerator += x * y
        denominator += x * x
    if not some:
        return None
    least, most = SHARED_RANGE
    if numerator >= most * denominator:
        return most
    return max(least, numerator / denominator)
