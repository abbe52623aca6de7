"""Which iterations of a round a worker trains in, if it trains in some of them only."""

from __future__ import annotations

__all__ = ['iterations_so_far', 'trains']


def trains(position: int, iterations: int, length: int) -> bool:
    """Whether a worker trains in an iteration of the round, if it trains in some of them only, evenly spread.

    It always does in the first.

    Args:
        position (int): Index of the iteration in the round, from 0.
        iterations (int): Number of iterations in which it trains, from 1 to ``length``.
        length (int): Number of iterations of the round.

    Example:
        >>> [position for position in range(8) if trains(position, 3, 8)]
        [0, 2, 5]
    """
    before = iterations_so_far(position, iterations, length)
    return iterations_so_far(position + 1, iterations, length) > before


def iterations_so_far(done: int, iterations: int, length: int) -> int:
    """In how many of the first ``done`` iterations of a round such a worker trains; see :func:`trains`."""
    return -(-done * iterations // length)
