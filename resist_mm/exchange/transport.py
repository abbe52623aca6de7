"""Carries an exchange plan out over torch.distributed and counts its bytes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from .plan import ExchangePlan, Transfer

__all__ = ['BlockStore', 'Traffic', 'Transport', 'all_reduce_bytes']


class BlockStore(Protocol):
    """Where the transport finds and puts the tensors of blocks.

    Both methods return the same list of one-dimensional tensors for a block, on
    all workers: its flat parameters, then whatever travels with them.
    """

    def tensors(self, block: int) -> Sequence[Tensor]:
        """The tensors of a block that this worker holds."""

    def allocate(self, block: int) -> Sequence[Tensor]:
        """Storage for a block that this worker takes over."""

    def block_bytes(self) -> Sequence[int]:
        """The size of every block's tensors together, held or not."""


@dataclass
class Traffic:
    """Bytes that moved.

    Attributes:
        sent: Bytes that this worker sent; of an all-reduce, its part of the ring's.
        received: Bytes that this worker received.
        total: Bytes that all workers together sent, worked out without a message.
    """

    sent: float = 0.0
    received: float = 0.0
    total: float = 0.0

    def __iadd__(self, other: Traffic) -> Traffic:
        self.sent += other.sent
        self.received += other.received
        self.total += other.total
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
        if backend == 'nccl' and self.num_workers > 1:
            self._p2p_group = dist.new_group()
            token = torch.zeros(1, device=device)
            ahead, behind = (self.rank + 1) % self.num_workers, (self.rank - 1) % self.num_workers
            self._post([(dist.isend, token, ahead, 0), (dist.irecv, token.clone(), behind, 0)])

    def average(self, tensors: Iterable[Tensor]) -> Traffic:
        """Replace tensors, in place, by their means over all workers."""
        traffic = Traffic()
        self._finish_averages(self._begin_averages(tensors, traffic))
        return traffic

    def broadcast(self, tensors: Iterable[Tensor]) -> Traffic:
        """Replace tensors, in place, by those of worker 0."""
        traffic = Traffic()
        if self.num_workers == 1:
            return traffic
        for tensor in tensors:
            message = self._outgoing(tensor)
            dist.broadcast(message, src=0)
            self._deposit(message, tensor)
            traffic.total += (self.num_workers - 1) * tensor.nbytes
            if self.rank == 0:
                traffic.sent += (self.num_workers - 1) * tensor.nbytes
            else:
                traffic.received += tensor.nbytes
        return traffic

    @torch.no_grad()
    def exchange(self, plan: ExchangePlan, shared: Iterable[Tensor], blocks: BlockStore) -> Traffic:
        """Aggregate what the old holders have and hand it to the new ones.

        Shared tensors are averaged over all workers while the messages of the
        blocks travel.

        Args:
            plan (ExchangePlan): The same on all workers.
            shared (Iterable[Tensor]): Tensors that every worker holds.
            blocks (BlockStore): The blocks of this worker.

        Returns:
            Traffic: The bytes that this worker sent and received, and the total.
        """
        traffic = Traffic(total=plan.total(blocks.block_bytes()))
        averages = self._begin_averages(shared, traffic)
        self._gather(plan, blocks, traffic)
        self._deliver(plan, blocks, traffic)
        self._finish_averages(averages)
        return traffic

    def _gather(self, plan: ExchangePlan, blocks: BlockStore, traffic: Traffic) -> None:
        outgoing, incoming = self._mine(plan.gathers)
        copies = [(t.block, [torch.empty_like(own) for own in blocks.tensors(t.block)]) for t in incoming]
        self._send_and_receive(
            [(t, blocks.tensors(t.block)) for t in outgoing],
            [(t, tensors) for t, (_, tensors) in zip(incoming, copies, strict=True)],
            traffic,
        )
        for block, tensors in copies:
            for own, copy in zip(blocks.tensors(block), tensors, strict=True):
                own.add_(copy)
        for block in {block for block, _ in copies}:
            for own in blocks.tensors(block):
                own.div_(len(plan.old.holders(block)))

    def _deliver(self, plan: ExchangePlan, blocks: BlockStore, traffic: Traffic) -> None:
        outgoing, incoming = self._mine(plan.deliveries)
        held = plan.old.blocks(self.rank)
        self._send_and_receive(
            [(t, blocks.tensors(t.block)) for t in outgoing],
            # an old holder that did not aggregate receives into the storage it has
            [(t, blocks.tensors(t.block) if t.block in held else blocks.allocate(t.block)) for t in incoming],
            traffic,
        )

    def _mine(self, transfers: Iterable[Transfer]) -> tuple[list[Transfer], list[Transfer]]:
        transfers = list(transfers)
        return (
            [t for t in transfers if t.source == self.rank],
            [t for t in transfers if t.target == self.rank],
        )

    def _send_and_receive(
        self,
        outgoing: list[tuple[Transfer, Sequence[Tensor]]],
        incoming: list[tuple[Transfer, Sequence[Tensor]]],
        traffic: Traffic,
    ) -> None:
        posts: list[tuple] = []
        for transfer, tensors in outgoing:
            for i, tensor in enumerate(tensors):
                posts.append((dist.isend, self._outgoing(tensor), transfer.target, _tag(transfer, i)))
                traffic.sent += tensor.nbytes
        arrivals = []
        for transfer, tensors in incoming:
            for i, tensor in enumerate(tensors):
                message = self._host_buffer(tensor) if self.through_host else tensor
                posts.append((dist.irecv, message, transfer.source, _tag(transfer, i)))
                arrivals.append((message, tensor))
                traffic.received += tensor.nbytes
        self._post(posts)
        for message, tensor in arrivals:
            self._deposit(message, tensor)

    def _post(self, posts: list[tuple]) -> None:
        if not posts:  # batch_isend_irecv raises on an empty batch
            return
        operations = [
            dist.P2POp(operation, message, peer, group=self._p2p_group, tag=tag)
            for operation, message, peer, tag in posts
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    def _begin_averages(self, tensors: Iterable[Tensor], traffic: Traffic) -> list[tuple]:
        if self.num_workers == 1:
            return []
        begun = []
        for tensor in tensors:
            message = self._outgoing(tensor)
            begun.append((dist.all_reduce(message, async_op=True), message, tensor))
            nbytes = all_reduce_bytes(tensor.nbytes, self.num_workers)
            traffic += Traffic(nbytes, nbytes, self.num_workers * nbytes)
        return begun

    def _finish_averages(self, begun: list[tuple]) -> None:
        for work, message, tensor in begun:
            work.wait()
            self._deposit(message.div_(self.num_workers), tensor)

    def _outgoing(self, tensor: Tensor) -> Tensor:
        return self._host_buffer(tensor).copy_(tensor) if self.through_host else tensor

    @staticmethod
    def _host_buffer(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device='cpu', pin_memory=True)

    @staticmethod
    def _deposit(message: Tensor, tensor: Tensor) -> None:
        if message is not tensor:
            tensor.copy_(message)


def _tag(transfer: Transfer, index: int) -> int:
    # gloo matches messages between two workers by tag
    return 16 * transfer.block + index
