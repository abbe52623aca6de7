"""The cost of a round, the schedule of a run, and the cost of the run. Plain arithmetic.

There are two ways of counting, always over all workers together:

- ``paper``: everything that a worker holds is uploaded and downloaded once a round
  (Table 1 of the paper). A message counts both at its sender and at its receiver.
- ``wire``: every byte sent counts once: ring all-reduces, and the hand-overs of
  :class:`ExchangePlan`. This is what actually goes over the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

__all__ = ['RoundCost', 'Schedule']


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and when its model is made whole.

    Attributes:
        iters: Iterations of a worker.
        local_iters: Iterations of a round, l in the paper.
        epochs: Passes over the data, of all workers together; None if not known.
        warmup_rounds: Rounds of local SGD before ResIST begins; ResIST only.
        whole_at: Iterations after which the model is made whole for a validation or a
            checkpoint, so that a round may end early; after the last one it always is.
        saved_at: Those of a checkpoint, if they are known apart; a codec may compress the others. None: all.
    """

    iters: int
    local_iters: int
    epochs: float | None = None
    warmup_rounds: int = 0
    whole_at: tuple[int, ...] = ()
    saved_at: tuple[int, ...] | None = None

    @classmethod
    def of_data(
        cls, num_images: int, batch_size: int, num_workers: int, epochs: float, local_iters: int
    ) -> Schedule:
        """The schedule of workers that share a data set; ``batch_size`` is one worker's."""
        return cls(ceil(ceil(num_images / (num_workers * batch_size)) * epochs), local_iters, epochs)

    @property
    def whole_rounds(self) -> list[int]:
        """The rounds that end with the whole model; the last one always does."""
        return list(self._ends)

    @property
    def exact_rounds(self) -> list[int]:
        """Those of them that end with a checkpoint or the end of training."""
        saved = self.whole_at if self.saved_at is None else self.saved_at
        return [index for index, iteration in self._ends.items() if iteration in {*saved, self.iters}]

    @property
    def _ends(self) -> dict[int, int]:
        """By round that ends with the whole model: after which iteration."""
        ends, rounds, previous = {}, 0, 0
        for iteration in sorted({at for at in self.whole_at if at < self.iters} | {self.iters}):
            rounds += ceil((iteration - previous) / self.local_iters)
            previous = iteration
            ends[rounds - 1] = iteration
        return ends

    @property
    def rounds(self) -> int:
        """Number of rounds; a round that ends early counts like any other."""
        return self.whole_rounds[-1] + 1


@dataclass(frozen=True)
class RoundCost:
    """What all workers together send in a round, in bytes.

    Attributes:
        protocol: 'resist', 'local_sgd', 'ddp' or 'gpipe'.
        num_workers: Number of workers, S in the paper.
        paper: Uploads and downloads of everything held.
        wire: Every byte once.
        last_wire: The same in a round after which the model is whole, in fp32.
        validation_wire: The same if it is only validated; None: no difference.
        messages: Number of point-to-point messages and collectives in a round.
        idle_share: Share of the time for which a pipeline's workers wait.
    """

    protocol: str
    num_workers: int
    paper: float
    wire: float
    last_wire: float
    messages: float
    idle_share: float = 0.0
    validation_wire: float | None = None

    def per_epoch(self, schedule: Schedule, warmup: RoundCost | None = None) -> tuple[float, float] | None:
        """Bytes of an average epoch, in both ways of counting: paper, wire; None if epochs are not known."""
        if schedule.epochs is None:
            return None
        paper, wire = self.per_run(schedule, warmup)
        return paper / schedule.epochs, wire / schedule.epochs

    def per_run(self, schedule: Schedule, warmup: RoundCost | None = None) -> tuple[float, float]:
        """Bytes of a run, in both ways of counting: paper, wire.

        What is sent in every iteration is counted by iterations, what is sent at the end
        of a round by rounds; ``warmup`` is the cost of a warm-up round. On the wire,
        rounds that end with the whole model are counted separately; the paper does not
        distinguish them.
        """
        if self.protocol in ('ddp', 'gpipe'):
            rounds = schedule.iters / schedule.local_iters
            return self.paper * rounds, self.wire * rounds
        before = 0 if warmup is None else min(schedule.warmup_rounds, schedule.rounds)
        paper, wire = self._rounds(schedule, before, schedule.rounds)
        if warmup is not None:
            more = warmup._rounds(schedule, 0, before)
            paper, wire = paper + more[0], wire + more[1]
        return paper, wire

    def _rounds(self, schedule: Schedule, first: int, end: int) -> tuple[float, float]:
        whole = sum(first <= index < end for index in schedule.whole_rounds)
        exact = sum(first <= index < end for index in schedule.exact_rounds)
        validated = self.last_wire if self.validation_wire is None else self.validation_wire
        wire = self.wire * (end - first - whole) + self.last_wire * exact + validated * (whole - exact)
        return self.paper * (end - first), wire
