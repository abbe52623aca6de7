"""Measure for how long workers wait in an exchange, with and without ``overlap_iters``.

Real processes, a real network and its engine, over links of a given rate. The shared part is given
``--ahead-sec`` to travel before the round ends. Every worker measures its whole exchange, and what share of it
waits for the shared part and in votes. Seconds are medians over rounds of the slowest worker; what workers wait
for a slower one to end its iterations is not counted.

Iterations are slept: so a processor that workers share has the time that each would have on a machine of its own.
With ``--train`` they are trained, so that averaging and training share it. Of each round only the last iterations
are run: some before averaging begins, of which the seconds of one are shown, and those trained beside it. By how
much these are slower counts as lost. The last column is what averaging costs in all, what is lost and the
exchange, as a share of a round of 50 iterations.

Examples:
    sudo python tools/analysis_tools/benchmark_overlap.py --link 100mbit --ahead-sec 0 12
    sudo python tools/analysis_tools/benchmark_overlap.py --link 100mbit --ahead-sec 0 12 --train
    sudo python tools/analysis_tools/benchmark_overlap.py --link 100mbit --codec c2 --ahead-sec 0 2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import median

import torch.distributed as dist

from ...partition import PartitionSampler
from ..named_networks import ARCHITECTURES, CODECS
from .shaped_links import shaped_links
from .training_rounds import Trainee
from .workers import add_worker_arguments, backend_of, describe_machine, run_workers

WARM_UP = 2
ROUND_ITERS = 50
UNDISTURBED_ITERS = 3  # of a round, before averaging begins
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


@dataclass
class Round:
    """What a worker measures in a round, in seconds and bytes.

    Attributes:
        exchange_sec: The exchange.
        waited_sec: Of it, what is waited for the shared part and in votes.
        sent: Bytes that this worker has sent.
        iteration_sec: An iteration that nothing disturbs; 0 if none is trained.
        ahead: Iterations that are trained beside averaging; the table has the worker with the most.
        ahead_sec: What those take, with the start of averaging; 0 without.
    """

    exchange_sec: float
    waited_sec: float
    sent: int
    iteration_sec: float
    ahead: int
    ahead_sec: float


def measure(args: argparse.Namespace, ahead_sec: float) -> list[Round]:
    """Run rounds in a worker, and measure."""
    trainee = Trainee(args, codec=CODECS[args.codec], overlap_iters=int(ahead_sec > 0))
    rounds = trainee.rounds
    sampler = PartitionSampler(rounds.num_blocks, dist.get_world_size(), args.min_blocks)
    rounds.begin(sampler.sample(0))
    # NCCL must have nothing else in flight beside what is averaged in the background
    group = dist.new_group(backend='gloo')
    found = []
    for index in range(WARM_UP + args.rounds):
        dist.barrier(group)
        undisturbed = trainee.iterations(UNDISTURBED_ITERS)[0] if args.train else 0.0
        ahead, of_ahead = _average_ahead(trainee, ahead_sec, args.train) if ahead_sec else (0, 0.0)
        dist.barrier(group)
        began, waited = time.perf_counter(), rounds.waited_sec
        sent = int(rounds.exchange(sampler.sample(index + 1)).sent)
        trainee.synchronize()
        seconds = time.perf_counter() - began
        waited = rounds.waited_sec - waited
        found.append(Round(seconds, waited, sent, undisturbed / UNDISTURBED_ITERS, ahead, of_ahead))
    return found[WARM_UP:]


def _average_ahead(trainee: Trainee, seconds: float, trains: bool) -> tuple[int, float]:
    """Begin to average, and train or sleep meanwhile; returns the iterations trained, and their seconds in all."""
    began, done = time.perf_counter(), 0
    trainee.rounds.average_ahead()
    while trains and time.perf_counter() - began < seconds:
        trainee.iterate()
        trainee.synchronize()
        done += 1
    trained_sec = time.perf_counter() - began
    time.sleep(max(0.0, began + seconds - time.perf_counter()))
    return done, trained_sec


def lost_sec(rounds: Sequence[Round]) -> list[float]:
    """In each round of a worker, how much longer the iterations trained beside averaging take than others."""
    iteration_sec = median(of.iteration_sec for of in rounds)
    return [of.ahead_sec - of.ahead * iteration_sec for of in rounds]


def slowest(of_workers: Sequence[Sequence[float]]) -> float:
    """The median over rounds of the worker with the most."""
    return median(map(max, zip(*of_workers, strict=True)))


def line_of(ahead_sec: float, of_workers: Sequence[Sequence[Round]], trained: bool) -> str:
    """A row of the table."""

    def of(key: str) -> float:
        return slowest([[getattr(of_round, key) for of_round in rounds] for rounds in of_workers])

    exchange_sec, iteration_sec = of('exchange_sec'), of('iteration_sec')
    line = f'{ahead_sec:14.2f}{exchange_sec:14.3f}{of("waited_sec"):18.3f}{of("sent") / MB:10.1f}'
    if not trained:
        return line
    lost = slowest([lost_sec(rounds) for rounds in of_workers])
    cost = exchange_sec + lost
    share = cost / (ROUND_ITERS * iteration_sec + cost)
    return f'{line}{iteration_sec:15.4g}{of("ahead"):18.0f}{lost:10.3f}{share:13.1%}'


def main() -> None:
    """Measure, and print."""
    args = parse_args()
    print(describe_machine())
    print(f'{args.arch}, {args.workers} workers, link {args.link}, codec {args.codec}; {args.rounds} rounds\n')
    header = f'{"seconds ahead":>14}{"exchange, s":>14}{"waited in it, s":>18}{"MB sent":>10}'
    if args.train:
        header += f'{"iteration, s":>15}{"iterations ahead":>18}{"lost, s":>10}{"of a round":>13}'
    print(header)
    try:
        for ahead_sec in args.ahead_sec:
            with ExitStack() as stack:
                links = stack.enter_context(shaped_links(args.workers, args.link)) if args.link else []
                backend = backend_of(args.device, args.workers)
                found = run_workers(measure, args.workers, args, ahead_sec, backend=backend, links=links)
            print(line_of(ahead_sec, found, args.train), flush=True)
    except (RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_overlap.py: {error}')


if __name__ == '__main__':
    main()
