"""The sizes of a network that determine its communication. Plain arithmetic."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...exchange import Codec
from ...exchange.wire import average_bytes, message_bytes

__all__ = ['FP32_BYTES', 'NetworkSize', 'PartSize']

FP32_BYTES = 4


@dataclass(frozen=True)
class PartSize:
    """The trainable parameters of a part of a network.

    Attributes:
        weights: Number of weights of convolutions and linear layers, which codecs compress.
        others: Number of the others, which always travel in fp32: norms, biases, moving averages.
    """

    weights: int
    others: int = 0

    @property
    def total(self) -> int:
        """Number of parameters."""
        return self.weights + self.others

    def __add__(self, other: PartSize) -> PartSize:
        return PartSize(self.weights + other.weights, self.others + other.others)

    def with_averages(self, count: int) -> PartSize:
        """The same with a number of moving averages of all parameters (EMA), which are never compressed."""
        return PartSize(self.weights, self.others + count * self.total)

    def message_bytes(self, codec: Codec | None = None) -> int:
        """Size of a message that holds the whole part, in bytes."""
        return message_bytes(self.weights, FP32_BYTES, codec) + message_bytes(self.others, FP32_BYTES)

    def average_bytes(self, num_workers: int, codec: Codec | None = None) -> float:
        """Bytes that all workers together send to average it: a ring, or compressed shards."""
        compressed = average_bytes(self.weights, FP32_BYTES, num_workers, codec)
        return compressed + average_bytes(self.others, FP32_BYTES, num_workers)


@dataclass(frozen=True)
class NetworkSize:
    """The sizes of a network that determine its communication.

    Attributes:
        shared: The part that every worker holds.
        blocks: Every partitioned block.
        activations: Number of activations of one image behind every residual
            block of the whole chain, where a pipeline can be cut. Empty: unknown.
    """

    shared: PartSize
    blocks: tuple[PartSize, ...] = ()
    activations: tuple[int, ...] = ()

    @property
    def whole(self) -> PartSize:
        """The whole model."""
        return sum(self.blocks, self.shared)

    def with_averages(self, count: int) -> NetworkSize:
        """What travels in rounds if a number of moving averages of the weights are kept (an ``EMAHook`` each)."""
        blocks = tuple(block.with_averages(count) for block in self.blocks)
        return replace(self, shared=self.shared.with_averages(count), blocks=blocks)
