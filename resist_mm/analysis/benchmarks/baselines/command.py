"""Compare ResIST with what else a user could take, by seconds on slow links to an accuracy.

DDP, DDP with the hooks for bf16 and PowerSGD, PyTorch's averagers of models, local SGD, DiLoCo and ResIST train
the network of a config from the same weights on the same batches. How accurate a network is after some iterations
does not depend on the link, but training on a slow one takes hours. So the work is split:

accuracy   Train by each method with each seed, without a link, and evaluate on the way.
seconds    Time what an iteration of each method consists of: a local iteration, a data-parallel one, an exchange,
           with every worker in a network namespace with a link of its own (Linux, root).
check      Run some iterations of each method on the links as a whole, beside the seconds that are put together.

Records are lines of JSON in the folder of --work-dir. What is there is not measured again, so the command may be
interrupted, and called for a part at a time; at the end it prints the table of what is known.

Examples:
    sudo RESIST_MM_CIFAR10=/path/ python tools/analysis_tools/benchmark_baselines.py CONFIG --work-dir DIR
    python tools/analysis_tools/benchmark_baselines.py CONFIG --work-dir DIR --measure nothing --plot docs/images
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ..delayed_links import delayed_links, parse_link
from ..workers import describe_machine, run_workers
from .composition import seconds_of
from .costs import Pace
from .methods import METHODS
from .records import Records
from .table import lines_of, rows_of
from .task import Task
from .timing import time_costs, time_run
from .training import train_all

__all__ = ['main']

LINKS = ['10mbit+40ms', '100mbit+40ms', '1gbit+40ms']
STEPS = ['accuracy', 'seconds', 'check']
CHECK_SEC = 25.0  # a check takes about as long


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='of an image classifier that is trained by ResIST')
    parser.add_argument('--work-dir', type=Path, required=True, help='folder of the records')
    parser.add_argument('--measure', nargs='+', choices=[*STEPS, 'nothing'], default=STEPS, help='default: all')
    parser.add_argument('--methods', nargs='+', choices=list(METHODS), default=list(METHODS), metavar='NAME')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0], help='default: 0')
    parser.add_argument(
        '--links', nargs='+', default=LINKS, metavar='LINK', help=f'rate+delay of each; default: {" ".join(LINKS)}'
    )
    parser.add_argument('--workers', type=int, default=4, metavar='S', help='default: 4')
    parser.add_argument('--iters', type=int, help="of a run; default: the config's, whose schedule is stretched")
    parser.add_argument(
        '--interval', type=int, help='iterations between evaluations, whole rounds; default: about a tenth of them'
    )
    parser.add_argument(
        '--wanted',
        type=float,
        nargs='+',
        default=[50.0],
        help='accuracies in %%, the first for the picture; default: 50',
    )
    parser.add_argument('--plot', type=Path, metavar='DIR', help='draw baselines_time and baselines_bytes there')
    args = parser.parse_args()
    for name in ('workers', 'iters', 'interval'):
        given = getattr(args, name)
        if given is not None and given < 1 + (name == 'workers'):
            parser.error(f'--{name} must be at least {1 + (name == "workers")}, got {given}')
    if args.workers % 2:
        parser.error(
            f'--workers must be even, since a hierarchical averager has pairs of them, got {args.workers}'
        )
    try:
        for link in args.links:
            parse_link(link)
    except ValueError as error:
        parser.error(str(error))
    return args


def measure_accuracy(args: argparse.Namespace, records: Records, task: Task) -> None:
    """Train what has not been trained, seed by seed."""
    local_iters = task.pace.local_iters
    interval = args.interval or local_iters * max(1, round(task.iters / 10 / local_iters))
    if interval % local_iters:
        raise ValueError(
            f'--interval {interval}: an evaluation ends a round, which would then be shorter than in training, so '
            f'this must be a multiple of {local_iters}, the local_iters of {args.config}'
        )
    todo = [(method, seed) for seed in args.seeds for method in args.methods]
    known = [(r['key']['method'], r['key']['seed']) for r in records.all('accuracy', iters=task.iters)]
    runs = [run for run in todo if run not in known]
    if runs:
        run_workers(train_all, args.workers, args.config, str(args.work_dir), runs, args.iters, interval)


def measure_seconds(args: argparse.Namespace, records: Records) -> None:
    """Time what has not been timed."""
    for link in args.links:
        for name in args.methods:
            if METHODS[name].timed and records.get('seconds', method=name, link=link) is None:
                with delayed_links(args.workers, parse_link(link)) as links:
                    costs = run_workers(time_costs, args.workers, args.config, name, links=links)[0]
                records.add('seconds', dict(method=name, link=link), dict(costs=costs, machine=describe_machine()))


def check(args: argparse.Namespace, records: Records, task: Task) -> None:
    """Run a part of a training where all its costs are known."""
    for link in args.links:
        for name in args.methods:
            number = iterations_for(records, name, link, task.pace)
            if number is None or records.get('check', method=name, link=link) is not None:
                continue
            predicted = seconds_of(records, name, link, number, task.pace)
            assert predicted is not None
            with delayed_links(args.workers, parse_link(link)) as links:
                results = run_workers(time_run, args.workers, args.config, name, number, links=links)
            found = dict(iterations=number, predicted=predicted[0], measured=results[0])
            records.add('check', dict(method=name, link=link), found)


def iterations_for(records: Records, name: str, link: str, pace: Pace) -> int | None:
    """About as many iterations as a check may take, whole rounds if that is possible; None: costs are missing."""
    number = None
    for n in [*range(1, pace.local_iters), *range(pace.local_iters, 20 * pace.local_iters, pace.local_iters)]:
        predicted = seconds_of(records, name, link, n, pace)
        if predicted is None or (number is not None and predicted[0] > CHECK_SEC):
            break
        number = n
    return number


def print_results(args: argparse.Namespace, records: Records, task: Task) -> None:
    """Print the table of what is known, and draw it if that is wanted."""
    rows = rows_of(records, args.links, task.iters, task.pace, args.wanted)
    print(f'{describe_machine()}\n{args.config}: {args.workers} workers, {task.iters} iterations of a batch of')
    print(f'{task.batch_size} each, {task.pace.local_iters} a round; seconds of the run, and until an accuracy\n')
    print('\n'.join(lines_of(records, rows, args.links, args.wanted)))
    if args.plot is not None:
        from .pictures import draw

        draw(rows, args.links, args.wanted[0], args.plot)


def main() -> None:
    """Measure what is missing, and print."""
    args = parse_args()
    try:
        task = Task(args.config, args.iters)
        if 'accuracy' in args.measure:
            measure_accuracy(args, Records(args.work_dir), task)
        records = Records(args.work_dir)
        if 'seconds' in args.measure:
            measure_seconds(args, records)
        if 'check' in args.measure:
            check(args, records, task)
        print_results(args, records, task)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_baselines.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
