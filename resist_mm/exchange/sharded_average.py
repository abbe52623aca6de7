"""The mean of compressed tensors, which no all-reduce can sum."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from .parcel import Parcel

__all__ = ['ShardedAverage', 'shard_bounds']

SHARD_MULTIPLE = 8  # numbers are packed by eight


def shard_bounds(numel: int, num_workers: int) -> list[tuple[int, int]]:
    """Where the shard of each worker begins and ends; the last ones may be shorter, or empty."""
    size = -(-numel // (num_workers * SHARD_MULTIPLE)) * SHARD_MULTIPLE
    return [(min(w * size, numel), min((w + 1) * size, numel)) for w in range(num_workers)]


class ShardedAverage:
    """Averages a parcel over all workers: reduce-scatter and all-gather of messages.

    Every worker sends each other one that one's shard, encoded; decodes and
    averages what it gets for its own shard; and sends the result, encoded, to all.
    All workers decode the same messages, so they agree bit for bit, and the number
    of bytes is the codec's ratio times that of an all-reduce.

    Making the object sends off the first messages; :meth:`finish` does the rest.

    Args:
        parcel (Parcel): With a codec. Its tensor is replaced by the mean. A residual is
            added before encoding and updated (error feedback: Seide et al., "1-Bit
            Stochastic Gradient Descent", Interspeech 2014).
        host (bool): Whether messages go through host memory.
    """

    def __init__(self, parcel: Parcel, host: bool = False) -> None:
        residual = parcel.residual
        self.parcel, self.residual, self.host = parcel, residual, host
        self.rank, self.num_workers = dist.get_rank(), dist.get_world_size()
        if residual is not None:
            parcel.tensor.add_(residual)
        self.bounds = shard_bounds(parcel.tensor.numel(), self.num_workers)
        shards = [parcel.shard(*bounds) for bounds in self.bounds]
        self.mine = shards[self.rank]
        self.shard_bytes = [shard.nbytes if shard.tensor.numel() else 0 for shard in shards]
        messages = [shard.message() if shard.tensor.numel() else self._bytes(0) for shard in shards]
        if residual is not None:
            for shard, message, (low, high) in zip(shards, messages, self.bounds, strict=True):
                if low < high:
                    shard.open(message, residual[low:high])
            torch.sub(parcel.tensor, residual, out=residual)
            low, high = self.bounds[self.rank]
            residual[low:high].zero_()
        # a worker's own shard stays where it is, uncompressed
        own = self.shard_bytes[self.rank]
        splits = [0 if w == self.rank else size for w, size in enumerate(self.shard_bytes)]
        received = [0 if w == self.rank else own for w in range(self.num_workers)]
        self.outgoing = torch.cat([m for w, m in enumerate(messages) if w != self.rank])
        self.incoming = self._bytes(own * (self.num_workers - 1))
        if host:
            self.outgoing = self.outgoing.cpu()
            self.incoming = self.incoming.cpu()
        self.work = dist.all_to_all_single(self.incoming, self.outgoing, received, splits, async_op=True)

    @property
    def sent(self) -> int:
        """Bytes that this worker sends."""
        gathered = (self.num_workers - 1) * max(self.shard_bytes)
        return sum(self.shard_bytes) - self.shard_bytes[self.rank] + gathered

    @property
    def received(self) -> int:
        """Bytes that this worker receives."""
        return (self.num_workers - 1) * (self.shard_bytes[self.rank] + max(self.shard_bytes))

    @property
    def total(self) -> int:
        """Bytes that all workers send."""
        return (self.num_workers - 1) * (sum(self.shard_bytes) + self.num_workers * max(self.shard_bytes))

    @property
    def buffer_bytes(self) -> int:
        """Bytes of the messages in memory."""
        return self.outgoing.nbytes + self.incoming.nbytes + (self.num_workers + 1) * max(self.shard_bytes)

    def finish(self) -> None:
        """Wait for the messages, average, and give the mean to all."""
        self.work.wait()
        device = self.parcel.tensor.device
        mean = self._mean(self.incoming.to(device))
        outgoing = self._bytes(max(self.shard_bytes))
        if mean is not None:
            message = Parcel(mean, self.parcel.codec, self.mine.reference).message()
            outgoing[: message.numel()] = message
            if self.residual is not None:
                low, high = self.bounds[self.rank]
                sent = torch.empty_like(mean)
                self.mine.open(message, sent)
                # the others know nothing of what this one left out: it is worth all their parts of the mean
                self.residual[low:high] = (mean - sent) * self.num_workers
        gathered = [torch.empty_like(outgoing) for _ in range(self.num_workers)]
        if self.host:
            gathered = [message.cpu() for message in gathered]
            outgoing = outgoing.cpu()
        dist.all_gather(gathered, outgoing)
        for message, size, (low, high) in zip(gathered, self.shard_bytes, self.bounds, strict=True):
            if low < high:
                self.parcel.shard(low, high).open(message[:size].to(device), self.parcel.tensor[low:high])

    def _mean(self, incoming: Tensor) -> Tensor | None:
        own = self.mine.tensor
        if not own.numel():
            return None
        total, other = own.to(torch.float32, copy=True), torch.empty_like(own)
        for message in incoming.split(self.shard_bytes[self.rank]):
            self.mine.open(message, other)
            total += other
        return (total / self.num_workers).to(own.dtype)

    def _bytes(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.parcel.tensor.device)
