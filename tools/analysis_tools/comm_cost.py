"""What training costs in communication: ResIST, local SGD, data-parallel training and GPipe.

All workers together, in GB (decimal), counted in two ways: "paper", everything that a
worker holds, uploaded and downloaded (Table 1 of the paper); and "wire", every byte
sent, once (ring all-reduces and direct hand-overs).

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
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from typing import Any

import _light_import  # before anything of resist_mm
from _networks import ARCHITECTURES, CODECS, DATASETS

from resist_mm.exchange.cost import (
    DEFAULT_SAMPLES,
    MessageBytes,
    NetworkSize,
    RoundCost,
    Schedule,
    ddp_cost,
    fp32_bytes,
    gpipe_cost,
    local_sgd_cost,
    resist_cost,
)

GB = 1e9
NAMES = dict(resist='ResIST', local_sgd='local SGD', ddp='data-parallel', gpipe='GPipe')


@dataclass(frozen=True)
class Run:
    """What is to be counted, but for the number of workers; None: not known.

    Attributes:
        title: The network and the data set, in words.
        network: The sizes of the network.
        batch_size: Batch of one worker.
        local_iters: Iterations of a round.
        min_blocks: Least number of partitioned blocks of a worker.
        length: Number of training images.
        epochs: Passes over the data, of two workers and of more.
        iters: Iterations of the run, instead of length and epochs.
    """

    title: str
    network: NetworkSize
    batch_size: int
    local_iters: int
    min_blocks: int | None
    length: int | None
    epochs: tuple[float, float] | None
    iters: int | None = None

    def schedule(self, num_workers: int) -> Schedule | None:
        """How long the run is with so many workers."""
        if self.iters is not None:
            per_epoch = self.iters if self.length is None else self.length / (num_workers * self.batch_size)
            return Schedule(per_epoch, self.iters / per_epoch, self.local_iters)
        if self.length is None or self.epochs is None:
            return None
        epochs = self.epochs[0] if num_workers <= 2 else self.epochs[1]
        return Schedule.of_data(self.length, self.batch_size, num_workers, epochs, self.local_iters)


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument('--arch', choices=list(ARCHITECTURES), default='preact_resnet101', help='a named network')
    what.add_argument('--config', help='count for the model of this config file')
    parser.add_argument('--dataset', choices=list(DATASETS), help='default: that of the network, or the config')
    parser.add_argument('--workers', type=int, nargs='+', default=[2, 4, 8], metavar='S')
    parser.add_argument('--min-blocks', type=int, help='least number of partitioned blocks of a worker')
    parser.add_argument(
        '--blocks-per-worker', type=int, nargs='+', metavar='K', help='exact numbers, one for each of --workers'
    )
    parser.add_argument('--num-images', type=int, help='of the training set; default: the data set is asked')
    parser.add_argument('--local-iters', type=int, help='iterations of a round, l in the paper')
    parser.add_argument('--epochs', type=float, help='passes over the data, of all workers together')
    parser.add_argument('--batch-size', type=int, help='batch of one worker')
    parser.add_argument(
        '--codec',
        nargs='+',
        choices=list(CODECS),
        default=['none'],
        help='how ResIST and local SGD compress; one figure for each',
    )
    parser.add_argument('--micro-batches', type=int, help="of GPipe's batch; default: 4 for each worker")
    parser.add_argument('--image-size', type=int, nargs=2, metavar=('H', 'W'), help='default: of the data set')
    parser.add_argument('--samples', type=int, default=DEFAULT_SAMPLES, help='rounds to take the mean of')
    parser.add_argument('--seed', type=int, default=0, help='of the partition')
    parser.add_argument('--json', action='store_true', help='print a JSON list instead of a table')
    parser.add_argument('--plot', metavar='FILE', help='draw Fig. 4 and Fig. 8: totals, and cost against workers')
    args = parser.parse_args()
    if args.blocks_per_worker is not None and len(args.blocks_per_worker) != len(args.workers):
        parser.error(f'--blocks-per-worker needs one number for each of --workers {args.workers}')
    if min(args.workers) < 1:
        parser.error(f'--workers counts from 1, got {args.workers}')
    return args


def named_run(args: argparse.Namespace) -> Run:
    """The run of a named network, as in the paper."""
    arch = ARCHITECTURES[args.arch]
    name = args.dataset or arch.dataset
    data = DATASETS[name]
    size = arch.size(data.classes, args.image_size[0] if args.image_size else data.image_size)
    return Run(
        f'{args.arch}, {name}',
        size,
        data.batch_size,
        data.local_iters,
        min(data.min_blocks, len(size.blocks)),
        data.length,
        data.epochs,
    )


def config_run(args: argparse.Namespace) -> Run:
    """The run of a config file; what it does not say is that of CIFAR, or not known."""
    with redirect_stdout(sys.stderr):  # some of what a config imports prints
        _light_import.import_all()
        from _config_network import read_config

        found = read_config(args.config, tuple(args.image_size) if args.image_size else None)
    return Run(
        args.config,
        found.network,
        found.batch_size or 1,
        found.local_iters or 50,
        found.min_blocks,
        DATASETS[args.dataset].length if args.dataset else found.length,
        None if found.epochs is None else (found.epochs, found.epochs),
        found.iters,
    )


def message_bytes(codec: str) -> tuple[MessageBytes, MessageBytes]:
    """Message sizes of a codec: in general, and of a block for a worker that has no old value of it."""
    if codec == 'none':
        return fp32_bytes, fp32_bytes
    from resist_mm.exchange.codec import TopK, build_codec

    built = build_codec(CODECS[codec])
    assert built is not None
    return built.message_bytes, fp32_bytes if isinstance(
        built, TopK
    ) and built.new_holders == 'whole' else built.message_bytes


def costs_of(
    run: Run, num_workers: int, blocks: int | None, args: argparse.Namespace
) -> list[tuple[str, RoundCost]]:
    """The costs of a round with so many workers, by codec and protocol."""
    costs = []
    if blocks is not None and num_workers * blocks < len(run.network.blocks):
        raise ValueError(
            f'--blocks-per-worker {blocks}: {num_workers} workers cannot hold {len(run.network.blocks)} blocks'
        )
    if run.network.blocks:
        for codec in args.codec:
            size, delivered = message_bytes(codec)
            least = run.min_blocks if blocks is None else blocks
            cost = resist_cost(run.network, num_workers, least, args.samples, args.seed, size, delivered)
            costs.append((codec, cost))
    costs += [(codec, local_sgd_cost(run.network, num_workers, message_bytes(codec)[0])) for codec in args.codec]
    costs.append(('none', ddp_cost(run.network, num_workers, run.local_iters)))
    if len(run.network.activations) >= num_workers:
        cost = gpipe_cost(run.network, num_workers, run.local_iters, run.batch_size, args.micro_batches)
        costs.append(('none', cost))
    return costs


def as_row(run: Run, codec: str, cost: RoundCost) -> dict[str, Any]:
    """One object of the output."""
    schedule = run.schedule(cost.num_workers)
    row: dict[str, Any] = dict(
        protocol=cost.protocol,
        workers=cost.num_workers,
        codec=codec,
        paper_gb_per_round=cost.paper / GB,
        wire_gb_per_round=cost.wire / GB,
    )
    amounts = dict(
        epoch=cost.per_epoch(schedule) if schedule and run.length is not None else None,
        run=cost.per_run(schedule) if schedule else None,
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
    )
    return row


def print_table(run: Run, rows: list[dict[str, Any]]) -> None:
    """Print the costs, both ways of counting named."""
    network = run.network
    print(
        f'{run.title}: {network.total:,} parameters, {len(network.blocks)} partitioned blocks of '
        f'{sum(network.blocks):,} together; {run.local_iters} iterations a round, batch {run.batch_size} a worker'
    )
    print('GB (decimal), all workers together')
    print('paper: everything held, uploaded and downloaded (Table 1); wire: every byte sent, once\n')
    print(f'{"":30}{"paper counting":^36}{"wire counting":^36}')
    print(f'{"protocol":15}{"S":>4}  {"codec":9}' + f'{"round":>12}{"epoch":>12}{"run":>12}' * 2)
    for row in rows:
        figures = [row[f'{way}_gb_per_{unit}'] for way in ('paper', 'wire') for unit in ('round', 'epoch', 'run')]
        cells = ''.join(f'{"?" if figure is None else f"{figure:.4f}":>12}' for figure in figures)
        print(f'{NAMES[row["protocol"]]:15}{row["workers"]:>4}  {row["codec"]:9}{cells}')
    if any(row['paper_gb_per_epoch'] is None for row in rows):
        print("\n?: the data set's files are not here to be counted: give --num-images or --dataset")
    if not run.network.activations:
        print('\nGPipe is left out: the size of the images is not known (--image-size), or the blocks are not')


def main() -> None:
    """Count, and print."""
    args = parse_args()
    try:
        run = named_run(args) if args.config is None else config_run(args)
        given = {key: getattr(args, key) for key in ('batch_size', 'local_iters', 'min_blocks')}
        run = replace(run, **{key: value for key, value in given.items() if value is not None})
        if args.num_images is not None:
            run = replace(run, length=args.num_images)
        if args.epochs is not None:
            run = replace(run, epochs=(args.epochs, args.epochs), iters=None)
        rows = []
        for i, num_workers in enumerate(args.workers):
            blocks = args.blocks_per_worker[i] if args.blocks_per_worker else None
            rows += [as_row(run, codec, cost) for codec, cost in costs_of(run, num_workers, blocks, args)]
    except (OSError, ValueError) as error:
        sys.exit(f'comm_cost.py: {error}')
    if args.plot:
        from _plots import plot_costs

        plot_costs(rows, run.title, NAMES, args.plot)
    if args.json:
        print(json.dumps(rows, indent=1))
    else:
        print_table(run, rows)


if __name__ == '__main__':
    main()
