"""Carries an exchange plan out over torch.distributed and counts its bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .mean import stage_mean
from .message import Form, Payload
from .plan import ExchangePlan, Transfer
from .process_group import backend_for, group_timeout
from .sharded_average import ShardedAverage
from .traffic import Payloads, Traffic
from .wire import WireBytes, all_reduce_bytes

__all__ = ['Transport']

_Message = tuple[Transfer, list[Tensor]]
ALIGNMENT = 16  # bytes


class Transport:
    """Moves tensors between the workers of the default process group.

    To be made by all workers at the same time. Without a process group there is
    one worker and nothing moves.

    NCCL gets a second process group for the point-to-point messages. All workers connect with all others
    here, because the first use of a NCCL group has to be collective; and the two groups are never in flight
    together, which torch forbids (see ``new_group``): the averages are ordered before the messages on the
    stream. (Untested: it needs two GPUs.) Gloo cannot send GPU tensors, so they go through pinned host
    memory there; that is how several workers share one GPU, which NCCL refuses.

    Args:
        device (torch.device): Where the tensors to be moved are.
        group (ProcessGroup, optional): One of all workers for averages, which is all that it can do then. Defaults
            to None: the default process group.

    Attributes:
        waited_sec: Seconds that this worker has spent in votes so far, where it waits for the slowest.

    Raises:
        ValueError: If the process group has no backend for that device.
    """

    def __init__(self, device: torch.device, group: dist.ProcessGroup | None = None) -> None:
        distributed = dist.is_available() and dist.is_initialized()
        self.device, self._group = device, group
        self.rank = dist.get_rank() if distributed else 0
        self.num_workers = dist.get_world_size() if distributed else 1
        backend = backend_for(device) if distributed else ''
        self.waited_sec = 0.0
        self.through_host = backend == 'gloo' and device.type == 'cuda'
        self.ordered = backend == 'nccl' and self.num_workers > 1
        self._p2p_group: dist.ProcessGroup | None = None
        if self.ordered and group is None:
            self._p2p_group = dist.new_group(timeout=group_timeout())
            token = torch.zeros(1, device=device)
            peers = [worker for worker in range(self.num_workers) if worker != self.rank]
            self._post(
                [(dist.isend, token, peer, 0) for peer in peers]
                + [(dist.irecv, token.clone(), peer, 0) for peer in peers]
            )

    @torch.no_grad()
    def average(self, payloads: Iterable[Payload], shares: Sequence[float] | None = None) -> Traffic:
        """Stage the means of payloads over all workers.

        Args:
            payloads (Iterable[Payload]): With values.
            shares (Sequence[float], optional): The share of each worker in the means; they add up to 1.
                Defaults to None: all the same.
        """
        self._traffic = Traffic()
        self._finish_averages(self._begin_averages(payloads, shares))
        return self._traffic

    @torch.no_grad()
    def broadcast(self, tensor: Tensor) -> Traffic:
        """Replace a tensor, in place, by that of worker 0."""
        if self.num_workers == 1:
            return Traffic()
        (message,) = self._to_wire([tensor])
        dist.broadcast(message, src=0)
        self._from_wire([(message, tensor)])
        total = (self.num_workers - 1) * tensor.nbytes
        return Traffic(total, 0, total) if self.rank == 0 else Traffic(0, tensor.nbytes, total)

    def vote(self, ballot: int) -> list[int]:
        """Tell all workers a number below 256; a byte to each, which :class:`Traffic` leaves out.

        Returns:
            list[int]: The ballot of each worker, the same on all.
        """
        if self.num_workers == 1:
            return [ballot]
        mine = torch.full((self.num_workers,), ballot, dtype=torch.uint8)
        mine = mine.to(self.device) if self.ordered else mine
        ballots = torch.empty_like(mine)
        began = time.perf_counter()
        # everybody tells everybody: one step, where a ring would take a step for each worker
        dist.all_to_all_single(ballots, mine)
        of_workers = ballots.tolist()
        self.waited_sec += time.perf_counter() - began
        return of_workers

    @torch.no_grad()
    def run(self, plan: ExchangePlan, payloads: Payloads, on_mean: Callable[[int], None] | None = None) -> Traffic:
        """Aggregate what the old holders have and hand it to the new ones.

        What every worker holds is averaged over all workers while the messages of the blocks travel. Values
        are only read; results are staged.

        Args:
            plan (ExchangePlan): The same on all workers.
            payloads (Payloads): Of this worker.
            on_mean (Callable, optional): Called by the aggregating worker of a block once its mean is staged,
                before it is delivered.

        Returns:
            Traffic: The bytes that this worker sent and received, and the total.
        """
        self._traffic = Traffic(total=plan.total(payloads.gathered_bytes(), payloads.delivered_bytes()))
        everywhere = [*payloads.shared(), *(p for block in plan.averaged for p in payloads.block(block))]
        averages = self._begin_averages(everywhere, plan.old.shares())
        if self.ordered:
            self._wait(averages)
        gathered = self._gather(plan, payloads)
        if on_mean is not None:
            for block, worker in enumerate(plan.aggregators):
                if worker == self.rank:
                    on_mean(block)
        self._traffic.buffers += max(gathered, self._deliver(plan, payloads))
        self._finish_averages(averages)
        return self._traffic

    @torch.no_grad()
    def copy(self, sends: Sequence[_Message], receives: Sequence[_Message], total: int) -> None:
        """Send tensors as they are, after :meth:`run`; counted in the same :class:`Traffic`.

        Args:
            sends: Transfers from this worker, each with its tensors.
            receives: Transfers to this worker, each with the room for them.
            total: Bytes that all workers together send.
        """
        buffers = self._send_and_receive(list(sends), list(receives))
        self._traffic += Traffic(total=total, buffers=buffers)

    def _gather(self, plan: ExchangePlan, payloads: Payloads) -> int:
        """Collect blocks at their aggregating workers and stage their means; returns the bytes of buffers."""
        outgoing, incoming = self._mine(plan.gathers)
        sends = [(t, [p.gathered.encode(_value(p)) for p in payloads.block(t.block)]) for t in outgoing]
        receives: list[_Message] = []
        roomy: set[int] = set()
        for t in incoming:
            # the first message of a block is received where its mean will be
            first = t.block not in roomy
            roomy.add(t.block)
            rooms = [_gather_room(p, first) for p in payloads.block(t.block)]
            receives.append((t, rooms))
        buffers = self._send_and_receive(sends, receives)
        of_block: dict[int, list[list[Tensor]]] = {}
        for transfer, messages in receives:
            of_block.setdefault(transfer.block, []).append(messages)
        for block, messages_of_others in of_block.items():
            holders = plan.old.holders(block)
            shares = plan.old.shares(holders)
            of_payloads = zip(*messages_of_others, strict=True)
            for payload, of_payload in zip(payloads.block(block), of_payloads, strict=True):
                stage_mean(payload, of_payload, holders, self.rank, shares)
        return buffers + self._message_bytes(sends, receives, payloads)

    def _message_bytes(self, sends: list[_Message], receives: list[_Message], payloads: Payloads) -> int:
        rooms = {id(p.staged) for t, _ in receives for p in payloads.block(t.block)}
        values = {id(p.value) for t, _ in sends for p in payloads.block(t.block)}
        return sum(
            message.nbytes
            for _, messages in (*sends, *receives)
            for message in messages
            if id(message) not in rooms | values
        )

    def _deliver(self, plan: ExchangePlan, payloads: Payloads) -> int:
        """Hand blocks to their new holders; returns the bytes of buffers."""
        outgoing, incoming = self._mine(plan.deliveries)
        received = {t.block for t in incoming}
        messages: dict[int, list[Tensor]] = {}
        for block in sorted({t.block for t in outgoing + incoming}):
            of_block = payloads.block(block)
            messages[block] = [
                _delivery_room(p) if block in received else p.delivered.encode(p.result) for p in of_block
            ]
        buffers = self._send_and_receive(
            [(t, messages[t.block]) for t in outgoing], [(t, messages[t.block]) for t in incoming]
        )
        for block, of_block_messages in messages.items():
            keeps = self.rank in plan.new.holders(block)
            for payload, message in zip(payloads.block(block), of_block_messages, strict=True):
                if payload.delivered.codec is not None:
                    buffers += message.nbytes
                    if keeps:  # the aggregating worker decodes too, so that all new holders have the same
                        _decode(payload, payload.delivered, message)
        return buffers

    def _mine(self, transfers: Iterable[Transfer]) -> tuple[list[Transfer], list[Transfer]]:
        transfers = list(transfers)
        return (
            [t for t in transfers if t.source == self.rank],
            [t for t in transfers if t.target == self.rank],
        )

    def _send_and_receive(self, sends: list[_Message], receives: list[_Message]) -> int:
        """Exchange messages; returns the bytes of host memory that they went through."""
        # a block may go to several targets
        distinct = list({id(m): m for _, messages in sends for m in messages}.values())
        arrivals = [message for _, messages in receives for message in messages]
        on_wire = self._to_wire(distinct, more=arrivals)
        wire_of = {id(m): wire for m, wire in zip([*distinct, *arrivals], on_wire, strict=True)}
        posts: list[tuple] = []
        for transfer, messages in sends:
            for i, message in enumerate(messages):
                posts.append((dist.isend, wire_of[id(message)], transfer.target, _tag(transfer, i)))
                self._traffic.sent += message.nbytes
        for transfer, messages in receives:
            for i, message in enumerate(messages):
                posts.append((dist.irecv, wire_of[id(message)], transfer.source, _tag(transfer, i)))
                self._traffic.received += message.nbytes
        self._post(posts)
        self._from_wire([(wire_of[id(message)], message) for message in arrivals])
        return sum(wire.nbytes for wire in on_wire) if self.through_host else 0

    def _post(self, posts: list[tuple]) -> None:
        if not posts:  # batch_isend_irecv raises on an empty batch
            return
        operations = [
            dist.P2POp(operation, message, peer, group=self._p2p_group, tag=tag)
            for operation, message, peer, tag in posts
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()

    def _begin_averages(self, payloads: Iterable[Payload], shares: Sequence[float] | None) -> list[Any]:
        begun: list[Any] = []
        for payload in payloads:
            if self.num_workers == 1:
                if payload.staged is not None:
                    payload.staged.copy_(_value(payload))
            elif payload.gathered.codec is not None or payload.dtype in (torch.float16, torch.bfloat16):
                average = ShardedAverage(payload, shares, self.through_host, self._group)
                self._count(average.bytes, average.buffer_bytes)
                begun.append(average)
            else:
                begun.append(self._begin_average(payload, shares))
        return begun

    def _begin_average(
        self, payload: Payload, shares: Sequence[float] | None
    ) -> tuple[Any, Tensor, Payload, bool]:
        room, value = payload.make_room(), _value(payload)
        operation = dist.ReduceOp.SUM
        # a power of two divides exactly, before or after the sum; and before costs nothing beside the copy
        divided = shares is not None or self.num_workers & (self.num_workers - 1) == 0
        if divided:
            torch.mul(value, 1 / self.num_workers if shares is None else shares[self.rank], out=room)
        else:
            if room is not value:
                room.copy_(value)
            if self.ordered:  # NCCL divides by itself
                operation, divided = dist.ReduceOp.AVG, True
        (message,) = self._to_wire([room])
        self._count(all_reduce_bytes(payload.nbytes, self.num_workers), message.nbytes if self.through_host else 0)
        return dist.all_reduce(message, operation, self._group, async_op=True), message, payload, divided

    def _count(self, wire: WireBytes, buffers: int) -> None:
        self._traffic += Traffic(*wire)
        self._traffic.buffers += buffers

    @staticmethod
    def _wait(begun: list[Any]) -> None:
        for average in begun:
            (average.work if isinstance(average, ShardedAverage) else average[0]).wait()

    def _finish_averages(self, begun: list[Any]) -> None:
        for average in begun:
            if isinstance(average, ShardedAverage):
                average.finish()
            else:
                work, message, payload, divided = average
                work.wait()
                self._from_wire([(message, payload.make_room())])
                if not divided:
                    payload.make_room().div_(self.num_workers)

    def _to_wire(self, tensors: Sequence[Tensor], more: Sequence[Tensor] = ()) -> list[Tensor]:
        """What to send for tensors, then where to receive more of them: themselves, or one host buffer's parts."""
        if not self.through_host:
            return [*tensors, *more]
        everything = [*tensors, *more]
        ends = [0]
        for tensor in everything:
            ends.append(ends[-1] + -(-tensor.nbytes // ALIGNMENT) * ALIGNMENT)
        buffer = self._host_buffer(ends[-1])
        parts = [
            buffer[start : start + t.nbytes].view(t.dtype).view(t.shape)
            for t, start in zip(everything, ends, strict=False)
        ]
        for tensor, part in zip(tensors, parts, strict=False):
            part.copy_(tensor, non_blocking=True)
        if self.device.type == 'cuda':
            torch.cuda.current_stream(self.device).synchronize()
        return parts

    def _from_wire(self, arrived: Sequence[tuple[Tensor, Tensor]]) -> None:
        # copies follow each other on the stream, and the host buffer is not used again before they have ended
        for message, tensor in arrived:
            if message is not tensor:
                tensor.copy_(message, non_blocking=True)

    @staticmethod
    def _host_buffer(nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)


def _value(payload: Payload) -> Tensor:
    assert payload.value is not None, 'this worker does not have it'
    return payload.value


def _gather_room(payload: Payload, first: bool) -> Tensor:
    if first and payload.gathered.codec is None:
        return payload.make_room()
    return payload.empty_message(payload.gathered)


def _delivery_room(payload: Payload) -> Tensor:
    return payload.make_room() if payload.delivered.codec is None else payload.empty_message(payload.delivered)


def _decode(payload: Payload, form: Form, message: Tensor) -> None:
    form.decode(message, payload.make_room())


def _tag(transfer: Transfer, index: int) -> int:
    # gloo matches messages between two workers by tag
    return 16 * transfer.block + index
