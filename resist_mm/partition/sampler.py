"""Deals out the partitioned blocks, anew for every round."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice
from random import Random

from .assignment import Assignment

__all__ = ['PartitionSampler']

DEFAULT_MIN_BLOCKS = 5


class PartitionSampler:
    """A function from the round index to the assignment of that round.

    The blocks are shuffled like a deck of cards, and every worker takes its hand
    from the deck (Sec. 2.2 of the paper; with a shuffled deck, dealing a hand at a
    time or card by card comes to the same). Hands differ in size by at most one
    block, and which workers get the larger hands is random as well. If a hand would
    fall below ``min_blocks``, every hand has that size and the deck is dealt from
    its start again: several workers then share a block (Sec. 2.6, "Subnetwork
    depth"), as evenly as possible.

    Where workers differ, the sizes of their hands can be given for each round instead (:meth:`sample`).

    The assignment depends only on ``seed``, the round index and these sizes. It never has to be
    sent, and training may resume with another number of workers.

    Args:
        num_blocks (int): Number of partitioned blocks, at least 1.
        num_workers (int): Number of workers, at least 1.
        min_blocks (int, optional): Least number of partitioned blocks of a
            worker. Defaults to None: the smaller of 5 and ``num_blocks``.
        seed (int): Seed of all rounds. Defaults to 0.

    Raises:
        TypeError: If an argument is not an integer.
        ValueError: If a number is out of range, in particular if ``min_blocks`` is
            larger than ``num_blocks``.

    Example:
        >>> sampler = PartitionSampler(num_blocks=22, num_workers=4, seed=3)
        >>> len(sampler.sample(round_index=7).blocks(worker=0)) in (5, 6)
        True
    """

    def __init__(self, num_blocks: int, num_workers: int, min_blocks: int | None = None, seed: int = 0) -> None:
        _check_integer('num_blocks', num_blocks, least=1)
        _check_integer('num_workers', num_workers, least=1)
        _check_integer('seed', seed)
        if min_blocks is None:
            min_blocks = min(DEFAULT_MIN_BLOCKS, num_blocks)
        _check_integer('min_blocks', min_blocks, least=0)
        if min_blocks > num_blocks:
            raise ValueError(
                f'min_blocks={min_blocks} asks for more blocks than the {num_blocks} that are partitioned: '
                f'choose min_blocks between 0 and {num_blocks}'
            )
        self.num_blocks = num_blocks
        self.num_workers = num_workers
        self.min_blocks = min_blocks
        self.seed = seed

    @property
    def blocks_per_worker(self) -> list[int]:
        """The sizes of the workers' hands, not in the order of the workers."""
        least, larger_hands = divmod(self.num_blocks, self.num_workers)
        return [max(self.min_blocks, least + (hand < larger_hands)) for hand in range(self.num_workers)]

    @property
    def share(self) -> float:
        """Mean share of the blocks that a worker holds: 1 / workers if no block is shared.

        This is the activation scale of the whole model (Sec. 2.6).
        """
        return sum(self.blocks_per_worker) / (self.num_workers * self.num_blocks)

    def sample(self, round_index: int, hands: Sequence[int] | None = None) -> Assignment:
        """Deal the blocks for a round.

        Args:
            round_index (int): Index of the round, from 0.
            hands (Sequence[int], optional): By worker, how many blocks it gets, at least ``num_blocks`` together;
                see :func:`check_hands`. Defaults to None: equal hands.

        Returns:
            Assignment: The same on every worker.

        Raises:
            TypeError: If ``round_index`` is not an integer.
            ValueError: If ``round_index`` is negative.
        """
        _check_integer('round_index', round_index, least=0)
        rng = Random(f'resist_mm partition {self.seed} {round_index}')
        deck = cycle(_shuffled(range(self.num_blocks), rng))
        if hands is None:
            dealt = _shuffled([list(islice(deck, size)) for size in self.blocks_per_worker], rng)
        else:
            # in random order, so that any two workers share blocks equally often
            dealt_to = {w: list(islice(deck, hands[w])) for w in _shuffled(range(len(hands)), rng)}
            dealt = [dealt_to[worker] for worker in range(len(hands))]
        return Assignment(dealt, self.num_blocks)


def _check_integer(name: str, value: object, least: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f'{name} must be an integer, got {value!r}')
    if least is not None and value < least:
        raise ValueError(f'{name} must be at least {least}, got {value}')


def _shuffled(items, rng: Random) -> list:
    # Random.random() is the only method whose sequence Python promises to keep:
    # shuffle() may change between versions, and workers may run different versions
    keyed = [(rng.random(), item) for item in items]
    return [item for _, item in sorted(keyed, key=lambda pair: pair[0])]
