"""All arithmetic of bytes on the wire, for the engine's counters and the cost model alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .codec import Codec

__all__ = [
    'WireBytes',
    'all_reduce_bytes',
    'average_bytes',
    'message_bytes',
    'shard_bounds',
    'shard_bytes',
    'sharded_average_bytes',
]

SHARD_MULTIPLE = 8  # codecs pack eight numbers at a time


class WireBytes(NamedTuple):
    """Bytes of one collective.

    Attributes:
        sent: Bytes that one worker sends.
        received: Bytes that it receives.
        total: Bytes that all workers together send.
    """

    sent: float
    received: float
    total: float


def message_bytes(numel: int, itemsize: int, codec: Codec | None = None) -> int:
    """Size of a message with ``numel`` numbers of ``itemsize`` bytes, in bytes."""
    if codec is None or not numel:
        return numel * itemsize
    return codec.message_bytes(numel)


def all_reduce_bytes(nbytes: int, num_workers: int) -> WireBytes:
    """Bytes of a ring all-reduce of ``nbytes``."""
    total = 2 * (num_workers - 1) * nbytes
    return WireBytes(total / num_workers, total / num_workers, total)


def shard_bounds(numel: int, num_workers: int) -> list[tuple[int, int]]:
    """Where each worker's shard begins and ends; the last shards may be shorter, or empty."""
    size = -(-numel // (num_workers * SHARD_MULTIPLE)) * SHARD_MULTIPLE
    return [(min(w * size, numel), min((w + 1) * size, numel)) for w in range(num_workers)]


def shard_bytes(numel: int, num_workers: int, itemsize: int, codec: Codec | None) -> list[int]:
    """Size of the message with each worker's shard, in bytes."""
    return [message_bytes(high - low, itemsize, codec) for low, high in shard_bounds(numel, num_workers)]


def sharded_average_bytes(sizes: Sequence[int], worker: int = 0) -> WireBytes:
    """Bytes of a reduce-scatter and an all-gather of messages.

    Every worker sends each of the others the shard that the other is responsible for, then
    its own averaged shard, padded to the longest, to all of them.

    Args:
        sizes (Sequence[int]): Size of the message with each worker's shard, in bytes.
        worker (int): Whose bytes to count. Defaults to 0.
    """
    others = len(sizes) - 1
    return WireBytes(
        sent=sum(sizes) - sizes[worker] + others * max(sizes),
        received=others * (sizes[worker] + max(sizes)),
        total=others * (sum(sizes) + len(sizes) * max(sizes)),
    )


def average_bytes(numel: int, itemsize: int, num_workers: int, codec: Codec | None = None) -> float:
    """Bytes that all workers together send to average ``numel`` numbers: a ring, or compressed shards."""
    if codec is None or not numel:
        return all_reduce_bytes(numel * itemsize, num_workers).total
    return sharded_average_bytes(shard_bytes(numel, num_workers, itemsize, codec)).total
