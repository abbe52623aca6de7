"""What the transport works on, and the bytes that it counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .message import Payload

__all__ = ['Payloads', 'Traffic']


class Payloads(Protocol):
    """Gives the transport the payloads of an exchange; results go to the payloads' ``staged``.

    The payloads of a block are the same on all workers, except for their values.
    """

    def shared(self) -> Sequence[Payload]:
        """The payloads of what every worker holds."""

    def block(self, block: int) -> Sequence[Payload]:
        """The payloads of a block, with values if this worker sends or aggregates it."""

    def gathered_bytes(self) -> Sequence[int]:
        """Size of each block's messages to its aggregating worker, in bytes, held or not."""

    def delivered_bytes(self) -> Sequence[int]:
        """Size of each block's messages to a new holder, in bytes, held or not."""


@dataclass
class Traffic:
    """Bytes that moved.

    Attributes:
        sent: Bytes that this worker sent; of an all-reduce, its part of the ring.
        received: Bytes that this worker received.
        total: Bytes that all workers together sent, computed without communication.
        buffers: Peak memory of this worker beyond its model, in bytes: messages, and in an exchange of the
            engine also what is staged, references and residuals.
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
