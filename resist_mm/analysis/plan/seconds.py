"""The seconds of an iteration and of an exchange. Plain arithmetic.

An exchange takes as long as the worker with the most bytes needs for them, sent or received, whichever are more:
a link carries both at once. What is compressed goes over the link in three steps that wait for each other:
messages to the aggregating workers, deliveries of blocks, and means of the shared part. Every step, every step of
a ring, and every vote waits once for the latency of the link; and codecs take the time of the processor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ...exchange import Codec, ExchangePlan
from ...exchange.wire import all_reduce_bytes, shard_bytes
from ...partition import Assignment
from ..cost import NetworkSize, PartSize
from ..cost.network_size import FP32_BYTES
from .link import LinkSpeed

__all__ = ['Costs', 'Work', 'ahead_sec', 'ddp_iteration_sec', 'exchange_sec', 'iteration_sec']

VOTES = 2
FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20  # of DistributedDataParallel, in bytes
BACKWARD = 2 / 3  # of an iteration


@dataclass(frozen=True)
class Work:
    """Seconds of the processor for one number.

    Attributes:
        encode: Of compressing it.
        decode: Of the opposite.
    """

    encode: float = 0.0
    decode: float = 0.0


@dataclass(frozen=True)
class Costs:
    """What the prediction rests on.

    Attributes:
        whole_sec: Seconds of a local iteration of the whole model.
        block_sec: What each partitioned block adds to it.
        link: Of every worker.
        plain_sec: Seconds of the processor for each number that a worker holds, in an exchange.
        work: Of each codec, by its name.
    """

    whole_sec: float
    block_sec: float
    link: LinkSpeed
    plain_sec: float = 0.0
    work: Mapping[str, Work] = field(default_factory=dict)


def iteration_sec(costs: Costs, num_blocks: int, assignment: Assignment | None = None) -> float:
    """Seconds of an iteration of the slowest worker; without an assignment, of the whole model."""
    if assignment is None:
        return costs.whole_sec
    most = max(len(assignment.blocks(worker)) for worker in range(assignment.num_workers))
    return costs.whole_sec - (num_blocks - most) * costs.block_sec


def ddp_iteration_sec(costs: Costs, network: NetworkSize, num_workers: int) -> float:
    """Seconds of an iteration of data-parallel training.

    Gradients are averaged in buckets, as soon as the backward pass has filled one, one bucket after the other.
    Parameters are taken to get their gradients at a steady rate.
    """
    left = total = network.whole.total * FP32_BYTES
    free = 0.0
    while left > 0:
        bucket = min(left, FIRST_BUCKET if left == total else BUCKET)
        left -= bucket
        filled = costs.whole_sec * (1 - BACKWARD * left / total)
        sent = all_reduce_bytes(bucket, num_workers).sent / costs.link.rate
        free = max(free, filled) + sent + _ring_steps(num_workers) * costs.link.latency
    return max(free, costs.whole_sec)


def exchange_sec(
    costs: Costs,
    network: NetworkSize,
    plan: ExchangePlan,
    codec: Codec | None = None,
    name: str = 'none',
    outer_momentum: Sequence[int] = (),
) -> float:
    """Seconds of an exchange.

    Args:
        costs (Costs): Of this machine and its link.
        network (NetworkSize): What travels.
        plan (ExchangePlan): Who sends which block to whom.
        codec (Codec, optional): How weights are compressed. Defaults to None: fp32.
        name (str): Its name in ``costs.work``. Defaults to 'none'.
        outer_momentum (Sequence[int]): Bytes that are delivered with each block. Defaults to (): none.
    """
    num_workers, latency = plan.old.num_workers, costs.link.latency
    averaged = [network.shared, *(network.blocks[block] for block in plan.averaged)]
    steps = [_Step(num_workers) for _ in range(3)]
    collecting, delivering, spreading = steps
    for part in averaged:
        _average(part, codec, collecting, spreading)
    for transfers, step in ((plan.gathers, collecting), (plan.deliveries, delivering)):
        for transfer in transfers:
            used = codec
            if step is delivering and codec is not None and not plan.all_have_old_value(transfer.block):
                used = codec.of_new_holders()
            nbytes = network.blocks[transfer.block].message_bytes(used)
            if step is delivering and outer_momentum:
                nbytes += outer_momentum[transfer.block]
            step.send(transfer.source, transfer.target, nbytes)
    # what is not compressed travels all the time: its steps share the link
    loads = [sum(steps, _Step(num_workers))] if codec is None else steps
    of_link = sum(load.most for load in loads) / costs.link.rate
    waits = VOTES + 2 * bool(plan.transfers) + _ring_steps(num_workers) + (codec is not None) * num_workers
    return of_link + waits * latency + _work_sec(costs, network, plan, codec, name)


def ahead_sec(costs: Costs, shared: PartSize, num_workers: int, codec: Codec | None = None) -> float:
    """Seconds of an exchange that may pass beside iterations: the shared part's bytes on the link.

    The time of the processor is not among them: what codecs take of it delays iterations just as much. The
    latencies of these messages pass there too, but are not taken off.

    Args:
        costs (Costs): Of this machine and its link.
        shared (PartSize): What is averaged ahead.
        num_workers (int): Number of workers.
        codec (Codec, optional): How weights are compressed. Defaults to None: fp32.
    """
    collecting, spreading = _Step(num_workers), _Step(num_workers)
    _average(shared, codec, collecting, spreading)
    return (collecting.most + spreading.most) / costs.link.rate


class _Step:
    """The bytes that each worker sends and receives in a step."""

    def __init__(self, num_workers: int) -> None:
        self.sent, self.received = [0.0] * num_workers, [0.0] * num_workers

    def send(self, source: int, target: int, nbytes: float) -> None:
        self.sent[source] += nbytes
        self.received[target] += nbytes

    def __add__(self, other: _Step) -> _Step:
        both = _Step(len(self.sent))
        both.sent = [a + b for a, b in zip(self.sent, other.sent, strict=True)]
        both.received = [a + b for a, b in zip(self.received, other.received, strict=True)]
        return both

    @property
    def most(self) -> float:
        return max(*self.sent, *self.received)


def _average(part: PartSize, codec: Codec | None, collecting: _Step, spreading: _Step) -> None:
    """The bytes of averaging a part: a ring, or compressed shards to their workers and then to all."""
    num_workers = len(collecting.sent)
    in_ring = part.others if codec is not None else part.total
    for worker in range(num_workers):
        ring = all_reduce_bytes(in_ring * FP32_BYTES, num_workers).sent
        collecting.send(worker, (worker + 1) % num_workers, ring)
    if codec is None:
        return
    sizes = shard_bytes(part.weights, num_workers, FP32_BYTES, codec)
    for source in range(num_workers):
        for target in range(num_workers):
            if source != target:
                collecting.send(source, target, sizes[target])
                spreading.send(source, target, max(sizes))


def _ring_steps(num_workers: int) -> int:
    return 2 * (num_workers - 1)


def _work_sec(costs: Costs, network: NetworkSize, plan: ExchangePlan, codec: Codec | None, name: str) -> float:
    """Seconds of the processor of the worker with the most to do."""
    old, new = plan.old, plan.new
    work = costs.work.get(name, Work()) if codec is not None else Work()
    sizes = [block.weights for block in network.blocks]
    everywhere = network.shared.weights + sum(sizes[block] for block in plan.averaged)
    share = everywhere / old.num_workers
    most = 0.0
    for worker in range(old.num_workers):
        encoded = everywhere + share
        decoded = everywhere - share + everywhere
        if codec is not None and codec.feeds_errors_back:
            decoded += everywhere
        for block, aggregator in enumerate(plan.aggregators):
            if worker == aggregator:
                encoded += sizes[block]
                decoded += (len(old.holders(block)) - 1) * sizes[block]
            elif worker in old.holders(block):
                encoded += sizes[block]
            decoded += sizes[block] * (worker in new.holders(block))
        held = network.shared.total + sum(network.blocks[block].total for block in new.blocks(worker))
        most = max(most, held * costs.plain_sec + encoded * work.encode + decoded * work.decode)
    return most
