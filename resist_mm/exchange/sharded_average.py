"""Averages tensors that an all-reduce must not sum: compressed ones, and those in half precision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from .message import Form, Payload
from .wire import WireBytes, shard_bounds, shard_bytes, sharded_average_bytes

__all__ = ['ShardedAverage']

ALIGNMENT = 16  # bytes, as many as any dtype needs


class ShardedAverage:
    """Averages a payload over all workers by a reduce-scatter and an all-gather of messages.

    Every worker is responsible for one shard. It receives that shard, encoded, from each of the others, decodes
    and averages them in at least fp32, and sends the encoded mean to all. Since all workers decode the same
    messages, they agree bit for bit; the traffic is that of an all-reduce times the codec's ratio.

    Constructing the object sends the first messages; :meth:`finish` does the rest. The mean goes to the payload's
    ``staged``. A residual is added before encoding, and what is left out this time goes to ``staged_residual``
    (error feedback: Seide et al., "1-Bit Stochastic Gradient Descent", Interspeech 2014).

    Args:
        payload (Payload): The same on all workers, except for its value.
        shares (Sequence[float], optional): The share of each worker in the mean; they add up to 1.
            Defaults to None: equal shares.
        host (bool): Whether messages go through host memory.
        group (ProcessGroup, optional): Of all workers. Defaults to None: the default process group.
    """

    def __init__(
        self,
        payload: Payload,
        shares: Sequence[float] | None = None,
        host: bool = False,
        group: dist.ProcessGroup | None = None,
    ) -> None:
        assert payload.value is not None
        self.payload, self.shares, self.host, self.group = payload, shares, host, group
        self.rank, self.num_workers = dist.get_rank(), dist.get_world_size()
        residual = payload.residual
        self.total = payload.value if residual is None else payload.value + residual
        self.bounds = shard_bounds(payload.numel, self.num_workers)
        self.forms = [payload.gathered.shard(*bounds) for bounds in self.bounds]
        self.sizes = shard_bytes(payload.numel, self.num_workers, payload.dtype.itemsize, payload.gathered.codec)
        messages = [
            _as_bytes(form.encode(self.total[low:high])) if low < high else self._bytes(0)
            for form, (low, high) in zip(self.forms, self.bounds, strict=True)
        ]
        if residual is not None:
            self._leave_out(messages)
        # a worker does not send its own shard, which stays uncompressed
        own = self.sizes[self.rank]
        splits = [0 if w == self.rank else size for w, size in enumerate(self.sizes)]
        received = [0 if w == self.rank else own for w in range(self.num_workers)]
        self.outgoing = torch.cat([m for w, m in enumerate(messages) if w != self.rank])
        self.incoming = self._bytes(own * (self.num_workers - 1))
        if host:
            self.outgoing = self.outgoing.cpu()
            self.incoming = self.incoming.cpu()
        self.work = dist.all_to_all_single(self.incoming, self.outgoing, received, splits, group, async_op=True)

    @property
    def bytes(self) -> WireBytes:
        """Bytes on the wire."""
        return sharded_average_bytes(self.sizes, self.rank)

    @property
    def buffer_bytes(self) -> int:
        """Memory of the messages and of encoding one of them, in bytes."""
        messages = self.outgoing.nbytes + self.incoming.nbytes + (self.num_workers + 1) * max(self.sizes)
        codec = self.payload.gathered.codec
        low, high = self.bounds[0]
        return messages + (0 if codec is None else codec.scratch_bytes(high - low))

    def finish(self) -> None:
        """Wait for the messages, average them, and send the mean to all."""
        self.work.wait()
        mean = self._mean(self.incoming.to(self.payload.device))
        outgoing = self._bytes(max(self.sizes))
        if mean is not None:
            message = _as_bytes(self._my_form.encode(mean))
            outgoing[: message.numel()] = message
            if self.payload.staged_residual is not None:
                self._leave_out_of_mean(mean, message)
        gathered = self._bytes(self.num_workers * max(self.sizes))
        if self.host:
            gathered, outgoing = gathered.cpu(), outgoing.cpu()
        dist.all_gather_into_tensor(gathered, outgoing, self.group)
        room = self.payload.make_room()
        messages = gathered.to(self.payload.device).view(self.num_workers, -1)
        for form, message, size, (low, high) in zip(self.forms, messages, self.sizes, self.bounds, strict=True):
            if low < high:
                form.decode(self._message(form, message[:size]), room[low:high])

    @property
    def _my_form(self) -> Form:
        return self.forms[self.rank]

    def _leave_out(self, messages: list[Tensor]) -> None:
        """Stage the difference between the values and the messages; a worker's own shard is not encoded."""
        left_out = torch.empty_like(self.total)
        for form, message, (low, high) in zip(self.forms, messages, self.bounds, strict=True):
            if low < high:
                form.decode(self._message(form, message), left_out[low:high])
        torch.sub(self.total, left_out, out=left_out)
        low, high = self.bounds[self.rank]
        left_out[low:high].zero_()
        self.payload.staged_residual = left_out

    def _leave_out_of_mean(self, mean: Tensor, message: Tensor) -> None:
        assert self.payload.staged_residual is not None
        low, high = self.bounds[self.rank]
        sent = torch.empty_like(mean)
        self._my_form.decode(self._message(self._my_form, message), sent)
        # only this worker knows what its shard's mean lost, so it adds all of it through its own share of the next
        # mean; too much or too little by their ratio if that is another one (a worker is lost, speeds change)
        factor = self.num_workers if self.shares is None else 1 / self.shares[self.rank]
        self.payload.staged_residual[low:high] = (mean - sent) * factor

    def _mean(self, incoming: Tensor) -> Tensor | None:
        low, high = self.bounds[self.rank]
        own = self.total[low:high]
        if not own.numel():
            return None
        total, other = own.to(torch.promote_types(own.dtype, torch.float32), copy=True), torch.empty_like(own)
        if self.shares is not None:
            total *= self.shares[self.rank]
        others = [w for w in range(self.num_workers) if w != self.rank]
        for worker, message in zip(others, incoming.split(self.sizes[self.rank]), strict=True):
            self._my_form.decode(self._message(self._my_form, message), other)
            total += other if self.shares is None else other * self.shares[worker]
        return (total if self.shares is not None else total / self.num_workers).to(own.dtype)

    def _message(self, form: Form, message: Tensor) -> Tensor:
        # a view of another dtype needs an aligned start, in a codec too
        aligned = message if message.storage_offset() % ALIGNMENT == 0 else message.clone()
        return aligned if form.codec is not None else aligned.view(self.payload.dtype)

    def _bytes(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self.payload.device)


def _as_bytes(message: Tensor) -> Tensor:
    return message if message.dtype == torch.uint8 else message.contiguous().view(torch.uint8)
