"""What a round costs: ResIST, local SGD, data parallel, GPipe. Plain arithmetic.

There are two ways of counting, always over all workers together:

- ``paper``: everything that a worker holds, uploaded and downloaded once a round
  (Table 1 of the paper). A message counts at its sender and at its receiver.
- ``wire``: every byte sent, once: ring all-reduces, and the hand-overs of
  :class:`ExchangePlan`. It is what really goes over the network.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import ceil
from statistics import fmean

from ..partition import Assignment, PartitionSampler
from .codec import Codec
from .network_size import FP32_BYTES, NetworkSize
from .plan import ExchangePlan

__all__ = [
    'RoundCost',
    'Schedule',
    'ddp_cost',
    'gpipe_cost',
    'local_sgd_cost',
    'resist_cost',
    'warmup_cost',
]

DEFAULT_SAMPLES = 1000


@dataclass(frozen=True)
class Schedule:
    """How long a run is, and when its model is made whole.

    Attributes:
        iters: Iterations of a worker.
        local_iters: Iterations of a round, l in the paper.
        epochs: Passes over the data, of all workers together; None: not known.
        warmup_rounds: Rounds of local SGD before ResIST begins; of ResIST's only.
        whole_at: Iterations after which the model is made whole, for a validation or a
            checkpoint, and a round may end early; after the last one it always is.
    """

    iters: int
    local_iters: int
    epochs: float | None = None
    warmup_rounds: int = 0
    whole_at: tuple[int, ...] = ()

    @classmethod
    def of_data(
        cls, num_images: int, batch_size: int, num_workers: int, epochs: float, local_iters: int
    ) -> Schedule:
        """The schedule of workers that share a data set; ``batch_size`` is one worker's."""
        return cls(ceil(ceil(num_images / (num_workers * batch_size)) * epochs), local_iters, epochs)

    @property
    def whole_rounds(self) -> list[int]:
        """The rounds that end with the whole model; the last one does."""
        ends, rounds, previous = [], 0, 0
        for iteration in sorted({at for at in self.whole_at if at < self.iters} | {self.iters}):
            rounds += ceil((iteration - previous) / self.local_iters)
            previous = iteration
            ends.append(rounds - 1)
        return ends

    @property
    def rounds(self) -> int:
        """Rounds of a run; one that ends early is exchanged as any."""
        return self.whole_rounds[-1] + 1


@dataclass(frozen=True)
class RoundCost:
    """What all workers together send in a round, in bytes.

    Attributes:
        protocol: 'resist', 'local_sgd', 'ddp' or 'gpipe'.
        num_workers: Number of workers, S in the paper.
        paper: Uploads and downloads of everything held.
        wire: Every byte once.
        last_wire: The same in a round after which the model is whole, always fp32.
        messages: Number of point-to-point messages and collectives in a round.
        idle_share: Share of the time for which a pipeline's workers wait.
    """

    protocol: str
    num_workers: int
    paper: float
    wire: float
    last_wire: float
    messages: float
    idle_share: float = 0.0

    def per_epoch(self, schedule: Schedule, warmup: RoundCost | None = None) -> tuple[float, float] | None:
        """Bytes of an average epoch, in both ways of counting: paper, wire; None if epochs are not known."""
        if schedule.epochs is None:
            return None
        paper, wire = self.per_run(schedule, warmup)
        return paper / schedule.epochs, wire / schedule.epochs

    def per_run(self, schedule: Schedule, warmup: RoundCost | None = None) -> tuple[float, float]:
        """Bytes of a run, in both ways of counting: paper, wire.

        What is sent in every iteration counts by iterations, what is sent at the end
        of a round counts by rounds; ``warmup`` is what a warm-up round costs. On the wire
        rounds that end with the whole model count as such, the paper does not tell them
        from others.
        """
        if self.protocol in ('ddp', 'gpipe'):
            rounds = schedule.iters / schedule.local_iters
            return self.paper * rounds, self.wire * rounds
        before = 0 if warmup is None else min(schedule.warmup_rounds, schedule.rounds)
        paper, wire = self._rounds(schedule, before, schedule.rounds)
        if warmup is not None:
            more = warmup._rounds(schedule, 0, before)
            paper, wire = paper + more[0], wire + more[1]
        return paper, wire

    def _rounds(self, schedule: Schedule, first: int, end: int) -> tuple[float, float]:
        whole = sum(first <= index < end for index in schedule.whole_rounds)
        return self.paper * (end - first), self.wire * (end - first - whole) + self.last_wire * whole


def resist_cost(
    network: NetworkSize,
    num_workers: int,
    min_blocks: int | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    codec: Codec | None = None,
) -> RoundCost:
    """The mean cost of a round of ResIST over sampled rounds.

    Args:
        network (NetworkSize): The network; it needs partitioned blocks.
        num_workers (int): Number of workers.
        min_blocks (int, optional): As that of :class:`PartitionSampler`.
        samples (int): Number of rounds to sample. Defaults to 1,000.
        seed (int): Seed of the partition. Defaults to 0.
        codec (Codec, optional): How weights are compressed. A block that travels whole
            because a new holder has no old value of it is counted so on the wire; the
            paper's way of counting knows no such distinction.

    Returns:
        RoundCost: Making the whole model in the last round is always fp32.

    Raises:
        ValueError: If there is nothing to deal out, ``samples`` is below 1, or an
            argument of the sampler is out of range.
    """
    if not network.blocks:
        raise ValueError('ResIST needs partitioned blocks, and the network has none')
    if samples < 1:
        raise ValueError(f'samples must be at least 1, got {samples}')
    sampler = PartitionSampler(len(network.blocks), num_workers, min_blocks, seed)
    rounds = [sampler.sample(index) for index in range(samples + 1)]
    plans = [ExchangePlan.between(old, new) for old, new in pairwise(rounds)]
    full = Assignment.full(num_workers, len(network.blocks))
    lasts = [ExchangePlan.between(old, full) for old in rounds[:samples]]
    shared, shared_exact = (network.shared.average_bytes(num_workers, c) for c in (codec, None))
    return RoundCost(
        'resist',
        num_workers,
        paper=2 * fmean(_held_bytes(network, a, codec) for a in rounds[:samples]),
        wire=shared + fmean(_handed_over(network, plan, codec) for plan in plans),
        last_wire=shared_exact + fmean(_handed_over(network, plan, None) for plan in lasts),
        messages=1 + fmean(plan.num_sends for plan in plans),
    )


def local_sgd_cost(network: NetworkSize, num_workers: int, codec: Codec | None = None) -> RoundCost:
    """A round of local SGD: the whole model is averaged once (Sec. 2.4).

    The last round, after which the model is whole, is exact fp32 as that of ResIST.
    """
    return RoundCost(
        'local_sgd',
        num_workers,
        paper=2 * num_workers * network.whole.message_bytes(codec),
        wire=network.whole.average_bytes(num_workers, codec),
        last_wire=network.whole.average_bytes(num_workers),
        messages=1,
    )


def warmup_cost(network: NetworkSize, num_workers: int, codec: Codec | None = None) -> RoundCost:
    """A warm-up round of ResIST: local SGD whose shared part and blocks are averaged one by one."""
    parts = [network.shared, *network.blocks]
    return RoundCost(
        'local_sgd',
        num_workers,
        paper=2 * num_workers * sum(part.message_bytes(codec) for part in parts),
        wire=sum(part.average_bytes(num_workers, codec) for part in parts),
        last_wire=network.whole.average_bytes(num_workers),
        messages=len(parts),
    )


def ddp_cost(network: NetworkSize, num_workers: int, local_iters: int) -> RoundCost:
    """As many iterations of data-parallel training as a round has.

    The gradients of the whole model are averaged in every iteration, in fp32.
    """
    wire = local_iters * network.whole.average_bytes(num_workers)
    return RoundCost(
        'ddp',
        num_workers,
        paper=local_iters * 2 * num_workers * network.whole.message_bytes(),
        wire=wire,
        last_wire=wire,
        messages=local_iters,
    )


def gpipe_cost(
    network: NetworkSize, num_workers: int, local_iters: int, batch_size: int, micro_batches: int | None = None
) -> RoundCost:
    """As many iterations of a pipeline as a round has, on the same images.

    Huang et al., "GPipe", NeurIPS 2019, arXiv:1811.06965. The network is cut into S
    parts of equally many residual blocks, which in a ResNet are about equal in
    compute. In an iteration one pipeline trains on the batches that S workers would
    have trained on. At every cut the activations go forward and their gradients
    back, in fp32. The number of micro-batches changes the number of messages and
    the share of idle time, not the bytes.

    Args:
        network (NetworkSize): The network, with ``activations``.
        num_workers (int): Number of parts, S.
        local_iters (int): Iterations of a round.
        batch_size (int): Batch of one worker; the pipeline's is S times that.
        micro_batches (int, optional): Pieces that a batch is cut into. Defaults to
            None: 4 S, from where on the GPipe paper finds the idle time negligible, or
            the number of images if that is smaller.

    Raises:
        ValueError: If the chain has too few blocks for so many parts, or the batch too
            few images for so many pieces.
    """
    images = num_workers * batch_size
    micro_batches = min(4 * num_workers, images) if micro_batches is None else micro_batches
    if not 1 <= micro_batches <= images:
        raise ValueError(
            f'micro_batches must be between 1 and the {images} images of a batch, got {micro_batches}'
        )
    cuts = pipeline_cuts(len(network.activations), num_workers)
    wire = local_iters * images * sum(2 * FP32_BYTES * network.activations[cut - 1] for cut in cuts)
    return RoundCost(
        'gpipe',
        num_workers,
        paper=2 * wire,
        wire=wire,
        last_wire=wire,
        messages=local_iters * 2 * len(cuts) * micro_batches,
        idle_share=(num_workers - 1) / (micro_batches + num_workers - 1),
    )


def pipeline_cuts(num_blocks: int, num_parts: int) -> list[int]:
    """The numbers of blocks in front of each cut into parts of equally many blocks.

    Raises:
        ValueError: If there are fewer blocks than parts.
    """
    if num_blocks < num_parts:
        raise ValueError(f'a chain of {num_blocks} blocks cannot be cut into {num_parts} parts')
    return [round(part * num_blocks / num_parts) for part in range(1, num_parts)]


def _handed_over(network: NetworkSize, plan: ExchangePlan, codec: Codec | None) -> int:
    """Bytes of the blocks' messages in an exchange."""
    gathered = [block.message_bytes(codec) for block in network.blocks]
    if codec is None or not codec.whole_for_new_holders:
        return plan.total(gathered)
    delivered = [
        block.message_bytes(codec if plan.all_have_old_value(number) else None)
        for number, block in enumerate(network.blocks)
    ]
    return plan.total(gathered, delivered)


def _held_bytes(network: NetworkSize, assignment: Assignment, codec: Codec | None) -> int:
    """Bytes of everything that the workers hold."""
    held = [block for worker in range(assignment.num_workers) for block in assignment.blocks(worker)]
    shared = assignment.num_workers * network.shared.message_bytes(codec)
    return shared + sum(network.blocks[block].message_bytes(codec) for block in held)
