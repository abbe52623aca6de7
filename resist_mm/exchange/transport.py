"""Carries an exchange plan out over torch.distributed and counts its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from .parcel import Parcel
from .plan import ExchangePlan, Transfer
from .sharded_average import ShardedAverage

__all__ = ['BlockStore', 'Traffic', 'Transport', 'all_reduce_bytes']

_Message = tuple[Transfer, list[Tensor]]


class BlockStore(Protocol):
    """Where the transport finds and puts the tensors of blocks.

    Lists of a block are alike on all workers: its flat parameters, then whatever
    travels with them.
    """

    def gathered(self, block: int) -> Sequence[Parcel]:
        """A block that this worker holds, on its way to the aggregating worker."""

    def delivered(self, block: int) -> Sequence[Parcel]:
        """A block on its way to the new holders; makes room for it if it is not held."""

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
        buffers: Most bytes that this worker needed at a time for messages, beyond the
            storage of what it leaves and enters.
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


def all_reduce_bytes(nbytes: int, num_workers: int) -> float:
    """Bytes that each worker sends, and receives, in a ring all-reduce of ``nbytes``."""
    return 2 * (num_workers - 1) / num_workers * nbytes


class Transport:
    """Moves tensors between the workers of the default process group.

    To be made by all workers at the same time. Without a process group there is
    one worker and nothing moves.

    NCCL gets a second process group for the point-to-point messages, so that they
    overlap the all-reduce; all workers use it once here, because the first use of
    a NCCL group has to be collective. (Untested: it needs two GPUs.) Gloo cannot
    send GPU tensors, so they go through pinned host memory there; that is how
    several workers share one GPU, which NCCL refuses.

    Args:
        device (torch.device): Where the tensors to be moved are.
    """

    def __init__(self, device: torch.device) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if distributed else 0
        self.num_workers = dist.get_world_size() if distributed else 1
        backend = dist.get_backend() if distributed else ''
        self.through_host = backend == 'gloo' and device.type == 'cuda'
        self._p2p_group: dist.ProcessGroup | None = None
        if 'nccl' in backend and self.num_workers > 1:
            self._p2p_group = dist.new_group()
            token = torch.zeros(1, device=device)
            ahead, behind = (self.rank + 1) % self.num_workers, (self.rank - 1) % self.num_workers
            self._post([(dist.isend, token, ahead, 0), (dist.irecv, token.clone(), behind, 0)])

    @torch.no_grad()
    def average(self, parcels: Iterable[Parcel]) -> Traffic:
        """Replace tensors, in place, by their means over all workers."""
        self._traffic = Traffic()
        self._finish_averages(self._begin_averages(parcels))
        return self._traffic

    @torch.no_grad()
    def broadcast(self, tensor: Tensor) -> Traffic:
        """Replace a tensor, in place, by that of worker 0."""
        if self.num_workers == 1:
            return Traffic()
        message = self._on_wire(tensor)
        dist.broadcast(message, src=0)
        self._off_wire(message, tensor)
        total = (self.num_workers - 1) * tensor.nbytes
        return Traffic(total, 0, total) if self.rank == 0 else Traffic(0, tensor.nbytes, total)

    @torch.no_grad()
    def exchange(self, plan: ExchangePlan, shared: Iterable[Parcel], blocks: BlockStore) -> Traffic:
        """Aggregate what the old holders have and hand it to the new ones.

        Shared tensors are averaged over all workers while the messages of the
        blocks travel.

        Args:
            plan (ExchangePlan): The same on all workers.
            shared (Iterable[Parcel]): What every worker holds.
            blocks (BlockStore): The blocks of this worker.

        Returns:
            Traffic: The bytes that this worker sent and received, and the total.
        """
        self._traffic = Traffic(total=plan.total(blocks.gathered_bytes(), blocks.delivered_bytes()))
        averages = self._begin_averages(shared)
        self._traffic.buffers += max(self._gather(plan, blocks), self._deliver(plan, blocks))
        self._finish_averages(averages)
        return self._traffic

    def _gather(self, plan: ExchangePlan, blocks: BlockStore) -> int:
        """Collect blocks at their aggregating workers and average them; returns the bytes of buffers."""
        outgoing, incoming = self._mine(plan.gathers)
        sends = [(t, [parcel.message() for parcel in blocks.gathered(t.block)]) for t in outgoing]
        receives = [(t, [parcel.empty_message() for parcel in blocks.gathered(t.block)]) for t in incoming]
        on_host = self._send_and_receive(sends, receives)
        for transfer, messages in receives:
            for parcel, message in zip(blocks.gathered(transfer.block), messages, strict=True):
                parcel.tensor.add_(message if parcel.codec is None else parcel.opened(message))
        for block in {transfer.block for transfer in incoming}:
            for parcel in blocks.gathered(block):
                parcel.tensor.div_(len(plan.old.holders(block)))
        encoded = [
            message.nbytes
            for transfer, messages in sends
            for parcel, message in zip(blocks.gathered(transfer.block), messages, strict=True)
            if parcel.codec is not None
        ]
        return on_host + sum(encoded) + sum(m.nbytes for _, messages in receives for m in messages)

    def _deliver(self, plan: ExchangePlan, blocks: BlockStore) -> int:
        """Hand blocks to their new holders; returns the bytes of buffers."""
        outgoing, incoming = self._mine(plan.deliveries)
        mine = {block: blocks.delivered(block) for block in sorted({t.block for t in outgoing + incoming})}
        received = {transfer.block for transfer in incoming}
        messages = {
            block: [
                parcel.message() if block not in received else parcel.place_for_message() for parcel in parcels
            ]
            for block, parcels in mine.items()
        }
        on_host = self._send_and_receive(
            [(t, messages[t.block]) for t in outgoing], [(t, messages[t.block]) for t in incoming]
        )
        encoded = 0
        for block, parcels in mine.items():
            for parcel, message in zip(parcels, messages[block], strict=True):
                # the aggregating worker decodes too, so that all new holders have the same
                parcel.open(message, parcel.tensor)
                encoded += message.nbytes if parcel.codec is not None else 0
        return on_host + encoded

    def _mine(self, transfers: Iterable[Transfer]) -> tuple[list[Transfer], list[Transfer]]:
        transfers = list(transfers)
        return (
            [t for t in transfers if t.source == self.rank],
            [t for t in transfers if t.target == self.rank],
        )

    def _send_and_receive(self, sends: list[_Message], receives: list[_Message]) -> int:
        posts: list[tuple] = []
        arrivals = []
        on_wire_of: dict[int, Tensor] = {}  # a block may go to several targets
        for transfer, messages in sends:
            for i, message in enumerate(messages):
                if id(message) not in on_wire_of:
                    on_wire_of[id(message)] = self._on_wire(message)
                posts.append((dist.isend, on_wire_of[id(message)], transfer.target, _tag(transfer, i)))
                self._traffic.sent += message.nbytes
        for transfer, messages in receives:
            for i, message in enumerate(messages):
                on_wire = self._host_buffer(message) if self.through_host else message
                posts.append((dist.irecv, on_wire, transfer.source, _tag(transfer, i)))
                arrivals.append((on_wire, message))
                self._traffic.received += message.nbytes
        self._post(posts)
        for on_wire, message in arrivals:
            self._off_wire(on_wire, message)
        if not self.through_host:
            return 0
        return sum(t.nbytes for t in on_wire_of.values()) + sum(t.nbytes for t, _ in arrivals)

    def _post(self, posts: list[tuple]) -> None:
        if not posts:  # batch_isend_irecv raises on an empty batch
            return
        operations = [
            dist.P2POp(operation, message, peer, group=self._p2p_group, tag=tag)
            for operation, message, peer, tag in posts
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    def _begin_averages(self, parcels: Iterable[Parcel]) -> list[Any]:
        if self.num_workers == 1:
            return []
        begun: list[Any] = []
        for parcel in parcels:
            if parcel.codec is not None:
                average = ShardedAverage(parcel, host=self.through_host)
                self._traffic += Traffic(average.sent, average.received, average.total)
                self._traffic.buffers += average.buffer_bytes
                begun.append(average)
            else:
                message = self._on_wire(parcel.tensor)
                nbytes = all_reduce_bytes(parcel.nbytes, self.num_workers)
                self._traffic += Traffic(nbytes, nbytes, self.num_workers * nbytes)
                self._traffic.buffers += message.nbytes if self.through_host else 0
                begun.append((dist.all_reduce(message, async_op=True), message, parcel.tensor))
        return begun

    def _finish_averages(self, begun: list[Any]) -> None:
        for average in begun:
            if isinstance(average, ShardedAverage):
                average.finish()
            else:
                work, message, tensor = average
                work.wait()
                self._off_wire(message.div_(self.num_workers), tensor)

    def _on_wire(self, tensor: Tensor) -> Tensor:
        return self._host_buffer(tensor).copy_(tensor) if self.through_host else tensor

    @staticmethod
    def _off_wire(message: Tensor, tensor: Tensor) -> None:
        if message is not tensor:
            tensor.copy_(message)

    @staticmethod
    def _host_buffer(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device='cpu', pin_memory=True)


def _tag(transfer: Transfer, index: int) -> int:
    # gloo matches messages between two workers by tag
    return 16 * transfer.block + index
