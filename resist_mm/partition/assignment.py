"""The blocks of every worker in one round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from math import inf

__all__ = ['Assignment']


class Assignment:
    """Which workers hold which partitioned blocks during one round.

    An assignment is immutable and compares by value.

    Args:
        blocks_of_workers: The blocks of worker 0, of worker 1, and so on.
        num_blocks: Number of partitioned blocks, which count from 0.
        weights: The weight of each worker in every mean, such as the number of samples that
            it trains on; above 0. Defaults to None: equal weights.

    Raises:
        ValueError: If a block is out of range, is listed twice for one worker, or has no
            holder (its parameters would be lost); if a weight is not above 0, or there is not
            one for each worker.

    Example:
        >>> assignment = Assignment([[0, 2], [1, 2]], num_blocks=3)
        >>> assignment.holders(2)
        (0, 1)
        >>> assignment.blocks(1)
        (1, 2)
    """

    def __init__(
        self,
        blocks_of_workers: Sequence[Iterable[int]],
        num_blocks: int,
        weights: Sequence[float] | None = None,
    ) -> None:
        self._blocks = tuple(tuple(sorted(blocks)) for blocks in blocks_of_workers)
        self.num_blocks = num_blocks
        self.weights = None if weights is None else tuple(map(float, weights))
        if not self._blocks:
            raise ValueError('an assignment needs at least one worker, got none')
        for worker, blocks in enumerate(self._blocks):
            if len(set(blocks)) != len(blocks):
                raise ValueError(f'worker {worker} holds a block twice: {blocks}')
            if blocks and (blocks[0] < 0 or blocks[-1] >= num_blocks):
                raise ValueError(f'worker {worker} holds {blocks}, but blocks count from 0 to {num_blocks - 1}')
        orphans = [block for block, holders in enumerate(self._holders) if not holders]
        if orphans:
            raise ValueError(f'blocks {orphans} have no holder: every block needs at least one')
        if self.weights is not None:
            if len(self.weights) != self.num_workers:
                raise ValueError(f'{self.num_workers} workers need one weight each, got {list(self.weights)}')
            if not all(0 < weight < inf for weight in self.weights):
                raise ValueError(f'the weights of workers must be finite and above 0, got {list(self.weights)}')

    @classmethod
    def full(cls, num_workers: int, num_blocks: int, weights: Sequence[float] | None = None) -> Assignment:
        """The assignment in which every worker holds every block (local SGD)."""
        return cls([range(num_blocks)] * num_workers, num_blocks, weights)

    def weighted(self, weights: Sequence[float] | None) -> Assignment:
        """The same blocks with other weights of workers."""
        return Assignment(self._blocks, self.num_blocks, weights)

    @cached_property
    def _holders(self) -> tuple[tuple[int, ...], ...]:
        holders: list[list[int]] = [[] for _ in range(self.num_blocks)]
        for worker, blocks in enumerate(self._blocks):
            for block in blocks:
                holders[block].append(worker)
        return tuple(map(tuple, holders))

    @property
    def num_workers(self) -> int:
        """Number of workers, S in the paper."""
        return len(self._blocks)

    @property
    def is_full(self) -> bool:
        """Whether every worker holds every block."""
        return all(len(blocks) == self.num_blocks for blocks in self._blocks)

    def holders(self, block: int) -> tuple[int, ...]:
        """The workers that hold ``block``, sorted."""
        return self._holders[block]

    def blocks(self, worker: int) -> tuple[int, ...]:
        """The blocks that ``worker`` holds, sorted: its sub-ResNet keeps their order."""
        return self._blocks[worker]

    def shares(self, workers: Sequence[int] | None = None) -> list[float] | None:
        """The share of each worker in a mean over the given workers; the shares add up to 1.

        Args:
            workers (Sequence[int], optional): Defaults to None: all.

        Returns:
            list[float], optional: None if all have the same share.
        """
        if self.weights is None:
            return None
        weights = [self.weights[worker] for worker in (range(self.num_workers) if workers is None else workers)]
        return [weight / sum(weights) for weight in weights]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Assignment):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple:
        return self._blocks, self.num_blocks, self.weights

    def __repr__(self) -> str:
        weights = '' if self.weights is None else f', weights={list(self.weights)}'
        return f'Assignment({[list(blocks) for blocks in self._blocks]}, num_blocks={self.num_blocks}{weights})'
