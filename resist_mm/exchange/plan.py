"""The list of transfers that leads from one assignment to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..partition import Assignment

__all__ = ['ExchangePlan', 'Transfer']


@dataclass(frozen=True)
class Transfer:
    """One message: a whole block from one worker to another.

    Attributes:
        block: Index of the partitioned block.
        source: The worker that sends.
        target: The worker that receives.
    """

    block: int
    source: int
    target: int


class ExchangePlan:
    """What travels when workers whose copies have diverged hand over their blocks.

    A block becomes the mean over its old holders (Sec. 2.3 of the paper). One of
    them, the aggregating worker, computes it, and every new holder receives the
    result. With old holders O and new holders N this takes ``|O| + |N| - 1`` sends,
    one less if some worker is in both, and no scheme needs fewer. The messages form
    two batches: ``gathers`` to the aggregating workers, then ``deliveries`` from them.

    If every worker holds every block, as in local SGD, nothing is handed over: a single average leaves the
    mean on all workers, and there are no transfers.

    All workers derive the same plan; it is never sent.

    Attributes:
        old (Assignment): Who holds the blocks before the exchange.
        new (Assignment): Who holds them after it.
        averaged (tuple[int, ...]): The blocks that are averaged over all workers, as the shared part is:
            either all of them or none.
        aggregators (tuple[int, ...]): The aggregating worker of every block; empty if the blocks are averaged.
        gathers (tuple[Transfer, ...]): First batch of messages.
        deliveries (tuple[Transfer, ...]): Second batch.
    """

    def __init__(self, old: Assignment, new: Assignment, aggregators: Sequence[int]) -> None:
        self.old, self.new = old, new
        self.averaged = tuple(range(old.num_blocks)) if old.is_full else ()
        self.aggregators = () if old.is_full else tuple(aggregators)
        self.gathers = tuple(
            Transfer(block, source, target)
            for block, target in enumerate(self.aggregators)
            for source in old.holders(block)
            if source != target
        )
        self.deliveries = tuple(
            Transfer(block, source, target)
            for block, source in enumerate(self.aggregators)
            for target in new.holders(block)
            if target != source
        )

    @classmethod
    def between(cls, old: Assignment, new: Assignment) -> ExchangePlan:
        """Plan the exchange from ``old`` to ``new`` with the fewest sends.

        Raises:
            ValueError: If the assignments differ in workers or blocks.
        """
        if (old.num_workers, old.num_blocks) != (new.num_workers, new.num_blocks):
            raise ValueError(
                f'the old assignment has {old.num_workers} workers and {old.num_blocks} blocks, '
                f'the new one {new.num_workers} and {new.num_blocks}: they must be the same'
            )
        return cls(old, new, () if old.is_full else _choose_aggregators(old, new))

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """All messages, in the order in which they are posted."""
        return self.gathers + self.deliveries

    @property
    def num_sends(self) -> int:
        """Number of messages."""
        return len(self.gathers) + len(self.deliveries)

    def all_have_old_value(self, block: int) -> bool:
        """Whether every new holder of a block is an old one too."""
        return set(self.new.holders(block)) <= set(self.old.holders(block))

    def sent(self, worker: int, block_bytes: Sequence[int]) -> int:
        """Bytes that ``worker`` sends, if the message of block b is ``block_bytes[b]`` long."""
        return sum(block_bytes[t.block] for t in self.transfers if t.source == worker)

    def received(self, worker: int, block_bytes: Sequence[int]) -> int:
        """Bytes that ``worker`` receives, if the message of block b is ``block_bytes[b]`` long."""
        return sum(block_bytes[t.block] for t in self.transfers if t.target == worker)

    def total(self, block_bytes: Sequence[int], delivered_bytes: Sequence[int] | None = None) -> int:
        """Bytes that all workers together send.

        Args:
            block_bytes (Sequence[int]): Length of the message of every block.
            delivered_bytes (Sequence[int], optional): Length of the messages that deliver
                it. Defaults to None: the same.
        """
        delivered_bytes = block_bytes if delivered_bytes is None else delivered_bytes
        gathered = sum(block_bytes[t.block] for t in self.gathers)
        return gathered + sum(delivered_bytes[t.block] for t in self.deliveries)


def _choose_aggregators(old: Assignment, new: Assignment) -> list[int]:
    """Choose the aggregating workers so that sends and receives are spread evenly.

    An aggregating worker that is both an old and a new holder saves a send. Among the
    candidates that keep the number of sends minimal, the least loaded one is chosen;
    blocks with a single candidate come first, so that the free choices balance the load.
    """
    sent = [0] * old.num_workers
    received = [0] * old.num_workers
    candidates = [
        set(old.holders(block)) & set(new.holders(block)) or set(old.holders(block))
        for block in range(old.num_blocks)
    ]
    aggregators = [0] * old.num_blocks
    for block in sorted(range(old.num_blocks), key=lambda block: (len(candidates[block]), block)):
        gathered = len(old.holders(block)) - 1

        def load(worker: int, block: int = block, gathered: int = gathered) -> tuple[int, int, int]:
            sends = sent[worker] + sum(target != worker for target in new.holders(block))
            receives = received[worker] + gathered
            return max(sends, receives), sends + receives, worker

        chosen = min(candidates[block], key=load)
        aggregators[block] = chosen
        received[chosen] += gathered
        for source in old.holders(block):
            sent[source] += source != chosen
        for target in new.holders(block):
            sent[chosen] += target != chosen
            received[target] += target != chosen
    return aggregators
