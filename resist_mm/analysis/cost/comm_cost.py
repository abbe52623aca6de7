"""The communication cost of training: ResIST, local SGD, data-parallel training and GPipe.

For all workers together, in GB (decimal), counted in two ways: "paper", an upload and a
download of everything that a worker holds (Table 1 of the paper); and "wire", every byte
sent, counted once (ring all-reduces and direct hand-overs).

Examples:
    python tools/analysis_tools/comm_cost.py --arch preact_resnet101 --dataset cifar100 --workers 2 4 8
    python tools/analysis_tools/comm_cost.py --workers 2 4 8 --blocks-per-worker 11 6 4
    python tools/analysis_tools/comm_cost.py --workers 4 --codec none q6 topk25 --plot cost.png
    python tools/analysis_tools/comm_cost.py --config configs/yolo_resist_voc.py --workers 4
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from ...builders import build_codec
from ...exchange import Codec
from ..named_networks import ARCHITECTURES, CODECS, DATASETS
from .counted_run import CountedRun, run_of
from .protocols import DEFAULT_SAMPLES, ddp_cost, gpipe_cost, local_sgd_cost, resist_cost, warmup_cost
from .round_cost import RoundCost

GB = 1e9
NAMES = dict(resist='ResIST', local_sgd='local SGD', ddp='data-parallel', gpipe='GPipe')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--arch', choices=list(ARCHITECTURES), default='preact_resnet101', help='a named network')
    what.add_argument('--config', help='count for the model of this config')
    parser.add_argument('--dataset', choices=list(DATASETS), help='default: that of the network, or the config')
    parser.add_argument('--workers', type=int, nargs='+', default=[2, 4, 8], metavar='S')
    parser.add_argument('--min-blocks', type=int, help='minimum number of partitioned blocks of a worker')
    parser.add_argument(
        '--blocks-per-worker', type=int, nargs='+', metavar='K', help='exact numbers, one for each of --workers'
    )
    parser.add_argument('--num-images', type=int, help='of the training set; default: as the data set says')
    parser.add_argument('--local-iters', type=int, help='iterations of a round, l in the paper')
    parser.add_argument('--epochs', type=float, help='passes over the data, of all workers together')
    parser.add_argument('--batch-size', type=int, help='batch of one worker')
    parser.add_argument(
        '--codec',
        nargs='+',
        choices=list(CODECS),
        help='how ResIST and local SGD compress; one figure for each; default: none, or that of the config',
    )
    parser.add_argument('--micro-batches', type=int, help="of GPipe's batch; default: 4 for each worker")
    parser.add_argument('--image-size', type=int, nargs=2, metavar=('H', 'W'), help='default: of the data set')
    parser.add_argument('--samples', type=int, default=DEFAULT_SAMPLES, help='number of rounds to average over')
    parser.add_argument('--seed', type=int, default=0, help='of the partition')
    parser.add_argument('--json', action='store_true', help='print a JSON list instead of a table')
    parser.add_argument('--plot', metavar='FILE', help='draw Fig. 4 and Fig. 8: totals, and cost against workers')
    args = parser.parse_args()
    if args.blocks_per_worker is not None and len(args.blocks_per_worker) != len(args.workers):
        parser.error(f'--blocks-per-worker needs one number for each of --workers {args.workers}')
    if min(args.workers) < 1:
        parser.error(f'--workers counts from 1, got {args.workers}')
    for name in ('num_images', 'local_iters', 'epochs', 'batch_size', 'samples'):
        if (given := getattr(args, name)) is not None and given <= 0:
            parser.error(f'--{name.replace("_", "-")} must be above 0, got {given}')
    if args.image_size and min(args.image_size) < 1:
        parser.error(f'--image-size must be above 0, got {args.image_size}')
    return args


def rows_of(
    run: CountedRun, num_workers: int, blocks: int | None, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """The cost of a run with a given number of workers, by protocol and codec.

    Raises:
        ValueError: If the blocks cannot be dealt out like that.
    """
    if blocks is not None and num_workers * blocks < len(run.network.blocks):
        raise ValueError(
            f'--blocks-per-worker {blocks}: {num_workers} workers cannot hold {len(run.network.blocks)} blocks'
        )
    codecs: dict[str, Codec | None] = {name: build_codec(cfg) for name, cfg in run.codecs.items()}
    travelling = run.travelling
    local_sgd = {name: local_sgd_cost(travelling, num_workers, codec) for name, codec in codecs.items()}
    rows = []
    if run.network.blocks:
        least = run.min_blocks if blocks is None else blocks
        for name, codec in codecs.items():
            cost = resist_cost(
                travelling, num_workers, least, args.samples, args.seed, codec, run.outer_momentum_bytes
            )
            rows.append(as_row(run, name, cost, warmup_cost(travelling, num_workers, codec)))
    rows += [as_row(run, name, cost) for name, cost in local_sgd.items()]
    rows.append(as_row(run, 'none', ddp_cost(run.network, num_workers, run.local_iters)))
    if len(run.network.activations) >= num_workers and run.batch_size is not None:
        cost = gpipe_cost(run.network, num_workers, run.local_iters, run.batch_size, args.micro_batches)
        rows.append(as_row(run, 'none', cost))
    return rows


def as_row(run: CountedRun, codec: str, cost: RoundCost, warmup: RoundCost | None = None) -> dict[str, Any]:
    """One row of the output, as an object."""
    schedule = run.schedule(cost.num_workers)
    row: dict[str, Any] = dict(
        protocol=cost.protocol,
        workers=cost.num_workers,
        codec=codec,
        paper_gb_per_round=cost.paper / GB,
        wire_gb_per_round=cost.wire / GB,
    )
    amounts = dict(
        epoch=cost.per_epoch(schedule, warmup) if schedule else None,
        run=cost.per_run(schedule, warmup) if schedule else None,
    )
    for unit, amount in amounts.items():
        for i, counting in enumerate(('paper', 'wire')):
            row[f'{counting}_gb_per_{unit}'] = amount[i] / GB if amount else None
    row.update(
        messages_per_round=cost.messages,
        idle_share=cost.idle_share,
        local_iters=run.local_iters,
        batch_size=run.batch_size,
        rounds=schedule.rounds if schedule else None,
        whole_rounds=len(schedule.whole_rounds) if schedule else None,
        warmup_rounds=run.warmup_rounds if warmup else 0,
    )
    return row


def print_table(run: CountedRun, rows: list[dict[str, Any]]) -> None:
    """Print the costs in both ways of counting."""
    network = run.network
    blocks = sum(block.total for block in network.blocks)
    batch = 'unknown batch' if run.batch_size is None else f'batch {run.batch_size} a worker'
    warmup = f', {run.warmup_rounds} rounds of warm-up' if run.warmup_rounds else ''
    print(
        f'{run.title}: {network.whole.total:,} parameters, {len(network.blocks)} partitioned blocks of '
        f'{blocks:,} together; {run.local_iters} iterations a round, {batch}{warmup}'
    )
    print('GB (decimal), all workers together')
    print('paper: everything held, uploaded and downloaded (Table 1); wire: every byte sent, once\n')
    print(f'{"":30}{"paper counting":^36}{"wire counting":^36}'.rstrip())
    print(f'{"protocol":15}{"S":>4}  {"codec":9}' + f'{"round":>12}{"epoch":>12}{"run":>12}' * 2)
    for row in rows:
        figures = [row[f'{way}_gb_per_{unit}'] for way in ('paper', 'wire') for unit in ('round', 'epoch', 'run')]
        cells = ''.join(f'{"?" if figure is None else f"{figure:.4f}":>12}' for figure in figures)
        print(f'{NAMES[row["protocol"]]:15}{row["workers"]:>4}  {row["codec"]:9}{cells}')
    if run.length is None:
        print("\n?: the data set's files are not here to be counted: give --num-images or --dataset")
    if run.whole_every:
        exact = ', in fp32' if all((cfg or {}).get('exact_whole', True) for cfg in run.codecs.values()) else ''
        print(f'\nrounds that a validation or a checkpoint ends make the model whole{exact}: counted on the wire')
    if run.averages:
        print('\na moving average of the weights travels with them, in fp32: counted for ResIST and local SGD')
    for note in run.notes:
        print(f'\n{note}')
    if not any(row['protocol'] == 'gpipe' for row in rows):
        print('\nGPipe is left out: it needs the size of the images (--image-size), the batch, and enough blocks')


def main() -> None:
    """Count the costs and print them."""
    args = parse_args()
    try:
        run = run_of(args)
        rows = []
        for i, num_workers in enumerate(args.workers):
            blocks = args.blocks_per_worker[i] if args.blocks_per_worker else None
            rows += rows_of(run, num_workers, blocks, args)
    except (OSError, ValueError) as error:
        sys.exit(f'comm_cost.py: {error}')
    if args.plot:
        from ..plots import plot_costs

        plot_costs(rows, run.title, NAMES, args.plot)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(run, rows)
