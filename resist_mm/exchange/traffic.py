"""What the transport is given, and what it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .message import Payload

__all__ = ['Payloads', 'Traffic']


class Payloads(Protocol):
    """Where the transport finds what an exchange moves; results go to the payloads' ``staged``.

    Lists of a block are alike on all workers, but for values.
    """

    def shared(self) -> Sequence[Payload]:
        """What every worker holds."""

    def block(self, block: int) -> Sequence[Payload]:
        """A block; with its value if this worker sends or aggregates it."""

    def gathered_bytes(self) -> Sequence[int]:
        """Size of every block's messages to the aggregating worker, held or not."""

    def delivered_bytes(self) -> Sequence[int]:
        """Size of every block's messages to the new holders, held or not."""


@dataclass
class Traffic:
    """Bytes that moved.

    Attributes:
        sent: Bytes that this worker sent; of an all-reduce, its part of the ring's.
        received: Bytes that this worker received.
        total: Bytes that all workers together sent, worked out without a message.
        buffers: Most bytes that this worker needed at a time for messages, beyond the values that it has
            and those that are staged.
    """

    sent: float = 0.0
    received: float = 0.0
    total: float = 0.0
    buffers: int = 0

    def __iadd__(self, other: Traffic) -> Traffic:
        self.sent += other.sent
        self.received += other.received
        self.total += other.total
        self.buffers = max(self.buffers, other.buffers)
        return self
