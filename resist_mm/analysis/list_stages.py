"""The chains of blocks of a config's model that ResIST can deal out, and what they weigh.

No weights are loaded and nothing is trained. Examples:
    python tools/analysis_tools/list_stages.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py
    python tools/analysis_tools/list_stages.py configs/yolo_ddp_voc.py --image-size 448 448 --workers 4
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ..convert import read_config
from ..convert.build import build_to_look_at
from ..convert.chains import Chain, find_chains
from ..convert.choice import check_is_no_local_sgd, choose_chains, choose_min_blocks
from ..convert.edits import check_has_no_protocol, check_has_no_teacher
from ..models.partition import partitioned_stages

__all__ = ['StageRow', 'flops_of_blocks', 'list_stages', 'main']

DEFAULT_SIZE = (800, 1344)


class StageRow(NamedTuple):
    """A chain and what it weighs.

    Attributes:
        chain: The chain.
        parameters: Mean number of parameters of a partitioned block.
        parameter_share: Share of the partitioned blocks in the parameters of the whole model.
        flops_share: Share of the partitioned blocks in the FLOPs of the backbone's forward pass; None: unknown.
    """

    chain: Chain
    parameters: int
    parameter_share: float
    flops_share: float | None


def list_stages(model: nn.Module, image_size: tuple[int, int]) -> list[StageRow]:
    """What the chains of a model weigh, in the order of the model.

    Args:
        model (nn.Module): A model, also on the meta device, there without any computation.
        image_size (tuple[int, int]): Height and width of the image to count FLOPs for.
    """
    chains = find_chains(model)
    whole = sum(p.numel() for p in model.parameters())
    total, flops = flops_of_blocks(model, chains, image_size)
    rows = []
    for chain in chains:
        counted = chain.in_backbone or not hasattr(model, 'backbone')
        share = sum(flops[block] for block in chain.blocks) / total if total and counted else None
        size = chain.num_parameters
        rows.append(StageRow(chain, size // chain.num_partitioned, size / whole, share))
    return rows


def flops_of_blocks(
    model: nn.Module, chains: Sequence[Chain], image_size: tuple[int, int]
) -> tuple[int, dict[nn.Module, int]]:
    """FLOPs of a forward pass of the backbone, and of each block in it.

    Convolutions, matrix products and attention of PyTorch are counted; other compiled operations are not.

    Returns:
        tuple[int, dict]: The total, 0 if the backbone does not run on an image alone; and those of the blocks.
    """
    backbone = getattr(model, 'backbone', model)
    flops = {block: 0 for chain in chains for block in chain.blocks}
    counter = FlopCounterMode(display=False)

    def before(block: nn.Module, args: Any) -> None:
        flops[block] -= counter.get_total_flops()

    def after(block: nn.Module, args: Any, output: Any) -> None:
        flops[block] += counter.get_total_flops()

    handles = [
        hook for b in flops for hook in (b.register_forward_pre_hook(before), b.register_forward_hook(after))
    ]
    training = backbone.training
    backbone.eval()
    try:
        with torch.no_grad(), counter:
            backbone(torch.zeros(1, 3, *image_size, device=next(backbone.parameters()).device))
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        return 0, dict.fromkeys(flops, 0)
    finally:
        backbone.train(training)
        for handle in handles:
            handle.remove()
    return counter.get_total_flops(), flops


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help="config file; mmdet::FILE for one of mmdet's")
    parser.add_argument('--image-size', type=int, nargs=2, metavar=('H', 'W'), default=DEFAULT_SIZE)
    parser.add_argument('--workers', type=int, nargs='+', default=[2, 4, 8], metavar='S')
    args = parser.parse_args()
    if min(args.workers) < 2:
        parser.error(f'--workers: ResIST needs at least 2, got {args.workers}')
    if min(args.image_size) < 1:
        parser.error(f'--image-size must be above 0, got {args.image_size}')
    return args


def print_table(rows: Sequence[StageRow], image_size: tuple[int, int]) -> None:
    """Print the chains."""
    names = [('path', 'kind', 'adapter')]
    names += [(row.chain.path, row.chain.kind, row.chain.adapter or 'none') for row in rows]
    widths = [max(map(len, column)) for column in zip(*names, strict=True)]
    figures = [f'{"blocks":>8}{"dealt":>7}{"params/block":>14}{"params":>8}{"FLOPs":>8}']
    for row in rows:
        flops = '?' if row.flops_share is None else f'{row.flops_share:.1%}'
        figures.append(
            f'{row.chain.num_blocks:>8}{row.chain.num_partitioned:>7}{row.parameters:>14,}'
            f'{row.parameter_share:>8.1%}{flops:>8}'
        )
    for cells, numbers in zip(names, figures, strict=True):
        print('  '.join(f'{cell:{width}}' for cell, width in zip(cells, widths, strict=True)) + numbers)
    height, width = image_size
    print(
        f'\nparams: share of the dealt blocks in the whole model; FLOPs: in the forward pass of the backbone on '
        f'{height}x{width}'
    )
    if any(row.chain.adapter is None for row in rows):
        print('adapter none: blocks that may be residual or not, dealt out only if --resist stages= names them')


def recommendation(model: nn.Module, workers: int) -> str:
    """What ``--resist`` would choose.

    Raises:
        ValueError: If it finds no chain to partition.
    """
    there = partitioned_stages(model)
    if there:
        blocks = sum(stage.num_partitioned for stage in there.values())
        stages = f'{",".join(there)}, which the model partitions by itself (leave out stages=);'
    else:
        chains = choose_chains(model, workers).chains
        blocks = sum(chain.num_partitioned for chain in chains)
        stages = f'stages={",".join(chain.path for chain in chains)}'
    least = choose_min_blocks(blocks)
    said = f'--resist with {workers} workers: '
    try:
        check_is_no_local_sgd(blocks, workers, least)
    except ValueError as error:
        return f'{said}{error}'
    return f'{said}{stages} min_blocks={least}, {blocks} blocks to deal out'


def main() -> None:
    """Print what a config's model offers, and what ``--resist`` would choose."""
    args = parse_args()
    try:
        cfg = read_config(args.config)
        model = build_to_look_at(cfg)
        rows = list_stages(model, tuple(args.image_size))
        if rows and rows[0].flops_share is None:  # an operation without an implementation for meta tensors
            rows = list_stages(build_to_look_at(cfg, 'cpu'), tuple(args.image_size))
    except (OSError, ValueError) as error:
        sys.exit(f'list_stages.py: {error}')
    if rows:
        print_table(rows, tuple(args.image_size))
    try:
        check_has_no_protocol(cfg)
        check_has_no_teacher(cfg)
        print('\n'.join(recommendation(model, workers) for workers in args.workers))
    except ValueError as error:
        sys.exit(f'\n--resist: {error}')


if __name__ == '__main__':
    main()
