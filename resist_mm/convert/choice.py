"""Which chains to partition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from resist_mm.models.adapters import adapter_of
from resist_mm.partition import PartitionSampler

from .chains import BACKBONE, Chain, find_chains

__all__ = [
    'BLOCKS_PER_WORKER',
    'Choice',
    'check_is_no_local_sgd',
    'choose_chains',
    'choose_min_blocks',
    'hands_in_words',
]

BLOCKS_PER_WORKER = 2
PAPER_STAGE = f'{BACKBONE}layer3'
PAPER_MIN_BLOCKS = 5
MIN_SHARE = 4
LONG_LIST = 8


class Choice(NamedTuple):
    """The chains to partition, and why.

    Attributes:
        chains: In the order of the model.
        reasons: Sentences.
    """

    chains: tuple[Chain, ...]
    reasons: tuple[str, ...]


def choose_chains(model: nn.Module, num_workers: int) -> Choice:
    """Choose chains of a model that leave every worker enough to hold.

    In the ResNet family that is the third stage, as in the paper; else the chain of the backbone with the most
    blocks, of several the one with the most parameters. If it has fewer than two partitioned blocks per worker,
    further chains of the backbone follow in this order. In a model without a backbone all chains count.

    Args:
        model (nn.Module): The model, also on the meta device.
        num_workers (int): Number of workers.

    Raises:
        ValueError: If the model has no chain of residual blocks.
    """
    found = find_chains(model)
    known = [chain for chain in found if chain.adapter is not None]
    offered = [chain for chain in known if chain.in_backbone] or (
        [] if isinstance(getattr(model, 'backbone', None), nn.Module) else known
    )
    if not offered:
        raise ValueError(_nothing_to_choose(model, found))
    order = sorted(offered, key=lambda c: (_is_of_paper(c), c.num_partitioned, c.num_parameters), reverse=True)
    needed = BLOCKS_PER_WORKER * num_workers
    chosen: list[Chain] = []
    for chain in order:
        if sum(c.num_partitioned for c in chosen) < needed:
            chosen.append(chain)
    return Choice(
        tuple(chain for chain in offered if chain in chosen),
        tuple(_reasons(order[0], chosen, needed, num_workers)),
    )


def choose_min_blocks(num_blocks: int) -> int:
    """The least number of blocks of a worker: the paper's 5, but not more than a quarter of the blocks.

    The hook's own default, 5 whatever the number of blocks, makes local SGD of a ResNet-50.
    """
    return max(1, min(PAPER_MIN_BLOCKS, num_blocks // MIN_SHARE))


def check_is_no_local_sgd(num_blocks: int, num_workers: int, min_blocks: int) -> list[int]:
    """Check that not every worker would hold every block.

    Returns:
        list[int]: The numbers of blocks that the workers hold.

    Raises:
        ValueError: If they would: that is local SGD.
    """
    hands = PartitionSampler(num_blocks, num_workers, min_blocks).blocks_per_worker
    if min(hands) == num_blocks:
        raise ValueError(
            f'with min_blocks={min_blocks} each of the {num_workers} workers would hold all of the '
            f'{_blocks(num_blocks)}, which is local SGD: choose a smaller min_blocks, further stages or a deeper '
            'network, or ask for --local-sgd'
        )
    return hands


def hands_in_words(hands: Sequence[int]) -> str:
    """How many blocks the workers hold: a number each, or a range where that would be a long list."""
    if len(hands) <= LONG_LIST:
        return str(list(hands))
    least, most = min(hands), max(hands)
    return f'{least} each' if least == most else f'{least} to {most} each'


def _is_of_paper(chain: Chain) -> bool:
    """Whether it is the third stage of a ResNet or of its relatives; others have a ``layer3`` too."""
    return chain.container == PAPER_STAGE and (chain.adapter or '').endswith('ResNetAdapter')


def _reasons(first: Chain, chosen: Sequence[Chain], needed: int, num_workers: int) -> list[str]:
    why = 'the stage of the paper' if _is_of_paper(first) else 'the chain with the most blocks'
    reasons = [f'stages: {first.path}, {why}, has {_blocks(first.num_partitioned)}']
    if len(chosen) > 1:
        further = ', '.join(f'{c.path} ({c.num_partitioned})' for c in chosen[1:])
        reasons.append(
            f'stages: also {further}, because {num_workers} workers should have {needed} blocks to share out '
            f'({BLOCKS_PER_WORKER} each)'
        )
    if any(c.num_partitioned < c.num_blocks for c in chosen):
        reasons.append('stages: the first block of a stage, which changes the shape, stays shared')
    total = sum(c.num_partitioned for c in chosen)
    if total < needed:
        reasons.append(
            f'stages: the backbone has no more than {_blocks(total)} for {num_workers} workers; a deeper network '
            'would suit them better'
        )
    return reasons


def _blocks(number: int) -> str:
    return f'{number} partitioned block' + 's' * (number != 1)


def _nothing_to_choose(model: nn.Module, found: Sequence[Chain]) -> str:
    backbone = getattr(model, 'backbone', model)
    message = (
        f'{type(backbone).__name__} has no chain of residual blocks that is known to work: none of its modules is '
        'a sequence of blocks with shortcuts that resist_mm has an adapter for, or they are frozen'
    )
    refusals = {
        f'{type(module).__name__}: {refusal}'
        for module in backbone.modules()
        if (refusal := adapter_of(module).refusal(module)) is not None
    }
    if refusals:
        message += f'. Refused: {"; ".join(sorted(refusals))}'
    generic = [f'{chain.path} ({chain.kind})' for chain in found if chain.adapter is None]
    if generic:
        message += (
            f'. Chains of other blocks, which may be residual or not: {", ".join(generic)}; '
            'if so, name them: --resist stages=PATH'
        )
    return message
