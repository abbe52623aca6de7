"""The cost of a round of each protocol: ResIST, local SGD, data parallel, GPipe."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from ...exchange import Codec, ExchangePlan
from ...partition import Assignment, PartitionSampler
from .network_size import FP32_BYTES, NetworkSize
from .round_cost import RoundCost

__all__ = [
    'DEFAULT_SAMPLES',
    'ddp_cost',
    'gpipe_cost',
    'local_sgd_cost',
    'pipeline_cuts',
    'resist_cost',
    'warmup_cost',
]

DEFAULT_SAMPLES = 1000


def resist_cost(
    network: NetworkSize,
    num_workers: int,
    min_blocks: int | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    codec: Codec | None = None,
    outer_momentum: Sequence[int] = (),
) -> RoundCost:
    """The mean cost of a round of ResIST over sampled rounds.

    Args:
        network (NetworkSize): The network; it needs partitioned blocks.
        num_workers (int): Number of workers.
        min_blocks (int, optional): As that of :class:`PartitionSampler`.
        samples (int): Number of rounds to sample. Defaults to 1,000.
        seed (int): Seed of the partition. Defaults to 0.
        codec (Codec, optional): How weights are compressed. A block that travels
            uncompressed because a new holder has no old value of it is counted that way
            on the wire; the paper's way of counting makes no such distinction.
        outer_momentum (Sequence[int]): Bytes of outer momentum that go to new holders with each block, and not to
            its aggregating worker; counted on the wire only. Defaults to (): none.

    Returns:
        RoundCost: In its last round, which makes the model whole, everything is fp32, as before a checkpoint.

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
        wire=shared + fmean(_handed_over(network, plan, codec, outer_momentum) for plan in plans),
        last_wire=shared_exact + fmean(_handed_over(network, plan, None, outer_momentum) for plan in lasts),
        messages=1 + fmean(plan.num_sends for plan in plans),
        validation_wire=_if_compressed(
            codec, shared + fmean(_handed_over(network, plan, codec, outer_momentum) for plan in lasts)
        ),
    )


def local_sgd_cost(network: NetworkSize, num_workers: int, codec: Codec | None = None) -> RoundCost:
    """A round of local SGD: the whole model is averaged once (Sec. 2.4).

    In the last round, which makes the model whole, everything is fp32, as with ResIST.
    """
    return RoundCost(
        'local_sgd',
        num_workers,
        paper=2 * num_workers * network.whole.message_bytes(codec),
        wire=network.whole.average_bytes(num_workers, codec),
        last_wire=network.whole.average_bytes(num_workers),
        messages=1,
        validation_wire=_if_compressed(codec, network.whole.average_bytes(num_workers, codec)),
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
        validation_wire=_if_compressed(codec, sum(part.average_bytes(num_workers, codec) for part in parts)),
    )


def ddp_cost(network: NetworkSize, num_workers: int, local_iters: int) -> RoundCost:
    """Data-parallel training for as many iterations as a round has.

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
    """A pipeline for as many iterations as a round has, on the same images.

    Huang et al., "GPipe", NeurIPS 2019, arXiv:1811.06965. The network is cut into S
    parts with equal numbers of residual blocks, which in a ResNet need about the same
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
            None: 4 S, from which on the GPipe paper finds the idle time negligible, or
            the number of images if that is smaller.

    Raises:
        ValueError: If the chain has fewer blocks than parts, or the batch fewer images
            than pieces.
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
    """The number of blocks before each cut, for parts with equal numbers of blocks.

    Raises:
        ValueError: If there are fewer blocks than parts.
    """
    if num_blocks < num_parts:
        raise ValueError(f'a chain of {num_blocks} blocks cannot be cut into {num_parts} parts')
    return [round(part * num_blocks / num_parts) for part in range(1, num_parts)]


def _if_compressed(codec: Codec | None, wire: float) -> float | None:
    """The bytes of making the model whole for a validation, if that is compressed."""
    return None if codec is None or codec.exact_whole else wire


def _handed_over(
    network: NetworkSize, plan: ExchangePlan, codec: Codec | None, outer_momentum: Sequence[int]
) -> int:
    """Bytes of the blocks' messages in an exchange."""
    gathered = [block.message_bytes(codec) for block in network.blocks]
    delivered = list(gathered)
    for number, block in enumerate(network.blocks):
        if codec is not None and not plan.all_have_old_value(number):
            delivered[number] = block.message_bytes(codec.of_new_holders())
    if outer_momentum:
        delivered = [a + b for a, b in zip(delivered, outer_momentum, strict=True)]
    return plan.total(gathered, delivered)


def _held_bytes(network: NetworkSize, assignment: Assignment, codec: Codec | None) -> int:
    """Bytes of everything that the workers hold."""
    held = [block for worker in range(assignment.num_workers) for block in assignment.blocks(worker)]
    shared = assignment.num_workers * network.shared.message_bytes(codec)
    return shared + sum(network.blocks[block].message_bytes(codec) for block in held)
