"""Measure for how long workers wait in an exchange, with and without ``overlap_iters``.

Real processes, a real network and its engine, over links of a given rate. The shared part is given
``--ahead-sec`` to travel before the round ends. Every worker measures its whole exchange, and what share of it
waits for the shared part and in votes. Seconds are medians over rounds of the slowest worker; what workers wait
for a slower one to end its iterations is not counted.

Iterations are slept: so a processor that workers share has the time that each would have on a machine of its own.
With ``--train`` they are trained, so that averaging and training share it. Of each round only the last iterations
are run; the last columns have the seconds of one that nothing disturbs, and the exchange's share of 50 of them.

Examples:
    sudo python tools/analysis_tools/benchmark_overlap.py --link 100mbit --ahead-sec 0 12
    sudo python tools/analysis_tools/benchmark_overlap.py --link 100mbit --ahead-sec 0 12 --train
    sudo python tools/analysis_tools/benchmark_overlap.py --link 100mbit --codec c2 --ahead-sec 0 2
"""

from __future__ import annotations

import argparse
import sys
import time
from contextlib import ExitStack
from statistics import median
from typing import Any

import torch.distributed as dist

from ...partition import PartitionSampler
from ..named_networks import ARCHITECTURES, CODECS
from .shaped_links import shaped_links
from .training_rounds import Trainee
from .workers import add_worker_arguments, backend_of, describe_machine, run_workers

WARM_UP = 2
ROUND_ITERS = 50
UNDISTURBED_ITERS = 2  # of a round, before averaging begins
MB = 1e6


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_worker_arguments(parser)
    parser.add_argument('--arch', choices=list(ARCHITECTURES), default='preact_resnet101')
    parser.add_argument('--rounds', type=int, default=5, help='timed rounds of each row; default: 5')
    parser.add_argument('--min-blocks', type=int, help='least number of partitioned blocks of a worker')
    parser.add_argument('--codec', choices=list(CODECS), default='none')
    parser.add_argument(
        '--ahead-sec',
        type=float,
        nargs='+',
        default=[0.0],
        help='seconds between the start of the average and the exchange; 0: no overlap; default: 0',
    )
    parser.add_argument('--train', action='store_true', help='train iterations instead of sleeping')
    parser.add_argument('--batch-size', type=int, default=4, help='of a worker, with --train; default: 4')
    parser.set_defaults(channels_last=False, bf16=False)
    args = parser.parse_args()
    if args.workers < 2 or min(args.rounds, args.batch_size) < 1:
        parser.error('--workers must be at least 2, and --rounds and --batch-size at least 1')
    return args


def measure(args: argparse.Namespace, ahead_sec: float) -> list[tuple[float, ...]]:
    """In every worker, of each timed round: seconds of the exchange, those waited in it, bytes sent.

    And the seconds of an iteration, 0 if none is trained.
    """
    trainee = Trainee(args, codec=CODECS[args.codec], overlap_iters=int(ahead_sec > 0))
    rounds = trainee.rounds
    sampler = PartitionSampler(rounds.num_blocks, dist.get_world_size(), args.min_blocks)
    rounds.begin(sampler.sample(0))
    found: list[tuple[float, ...]] = []
    for index in range(WARM_UP + args.rounds):
        dist.barrier()
        iteration_sec = trainee.iterations(UNDISTURBED_ITERS)[0] / UNDISTURBED_ITERS if args.train else 0.0
        if ahead_sec:
            rounds.average_ahead()
            ends = time.perf_counter() + ahead_sec
            while args.train and time.perf_counter() < ends:
                trainee.iterate()
            time.sleep(max(0.0, ends - time.perf_counter()))
        dist.barrier()
        began, waited = time.perf_counter(), rounds.waited_sec
        traffic = rounds.exchange(sampler.sample(index + 1))
        found.append((time.perf_counter() - began, rounds.waited_sec - waited, traffic.sent, iteration_sec))
    return found[WARM_UP:]


def slowest(of_workers: list[list[tuple[float, ...]]], column: int) -> float:
    """The median over rounds of the worker with the most."""
    return median(max(of[column] for of in of_round) for of_round in zip(*of_workers, strict=True))


def main() -> None:
    """Measure, and print."""
    args = parse_args()
    print(describe_machine())
    print(f'{args.arch}, {args.workers} workers, link {args.link}, codec {args.codec}; {args.rounds} rounds\n')
    trained = f'{"iteration, s":>15}{f"of {ROUND_ITERS} iterations":>20}' if args.train else ''
    print(f'{"seconds ahead":>14}{"exchange, s":>14}{"waited in it, s":>18}{"MB sent":>10}{trained}')
    try:
        for ahead_sec in args.ahead_sec:
            with ExitStack() as stack:
                links = stack.enter_context(shaped_links(args.workers, args.link)) if args.link else []
                backend = backend_of(args.device, args.workers)
                found: list[Any] = run_workers(
                    measure, args.workers, args, ahead_sec, backend=backend, links=links
                )
            seconds, waited, sent, iteration = (slowest(found, column) for column in range(4))
            trained = f'{iteration:15.3f}{seconds / (ROUND_ITERS * iteration):20.1%}' if args.train else ''
            print(f'{ahead_sec:14.2f}{seconds:14.3f}{waited:18.3f}{sent / MB:10.1f}{trained}', flush=True)
    except (RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_overlap.py: {error}')


if __name__ == '__main__':
    main()
