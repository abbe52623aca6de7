"""How many blocks each worker gets, where workers differ."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ['check_hands', 'hands_for']


def hands_for(seconds: Sequence[float], shared: float, num_blocks: int, min_blocks: int) -> list[int]:
    """The sizes of hands with which the slowest iteration is as short as possible.

    An iteration of worker w with d blocks takes ``seconds[w] * (shared + d)``. Nobody gets fewer than
    ``min_blocks``; if these are enough for all blocks, everybody gets exactly as many. Otherwise the remaining
    blocks go one by one to whoever will have the shortest iteration with one more, which is optimal for blocks
    that cost the same.

    Args:
        seconds (Sequence[float]): Seconds that an iteration of each worker takes for one block; above 0.
        shared (float): What an iteration takes beside the partitioned blocks, in blocks.
        num_blocks (int): Number of partitioned blocks.
        min_blocks (int): Least number of blocks of a worker.

    Returns:
        list[int]: By worker.

    Example:
        >>> hands_for([4, 4, 2, 1], shared=0, num_blocks=16, min_blocks=1)
        [2, 2, 4, 8]
    """
    hands = [min_blocks] * len(seconds)
    for _ in range(num_blocks - sum(hands)):
        with_one_more = [
            (of_block * (shared + hand + 1), worker)
            for worker, (of_block, hand) in enumerate(zip(seconds, hands, strict=True))
            if hand < num_blocks
        ]
        hands[min(with_one_more)[1]] += 1
    return hands


def check_hands(name: str, hands: Sequence[int], num_blocks: int, num_workers: int, min_blocks: int) -> None:
    """Refuse sizes of hands that cannot be dealt.

    Args:
        name (str): What to call them.
        hands (Sequence[int]): By worker.
        num_blocks (int): Number of partitioned blocks.
        num_workers (int): Number of workers.
        min_blocks (int): Least number of blocks of a worker.

    Raises:
        ValueError: If there is not one for each worker, one is out of range, or some blocks would have no holder.
    """
    found = f'{name}={list(hands)}'
    if len(hands) != num_workers:
        raise ValueError(f'{found} has {len(hands)} numbers for {num_workers} workers: give one for each worker')
    if any(isinstance(hand, bool) or not isinstance(hand, int) for hand in hands):
        raise ValueError(f'{found}: numbers of blocks are integers')
    if not all(min_blocks <= hand <= num_blocks for hand in hands):
        raise ValueError(
            f'{found}: of the {num_blocks} partitioned blocks a worker holds at least min_blocks={min_blocks} and '
            f'at most {num_blocks}'
        )
    if sum(hands) < num_blocks:
        raise ValueError(
            f'{found} are {sum(hands)} blocks together, but {num_blocks} are partitioned and each needs a holder'
        )
