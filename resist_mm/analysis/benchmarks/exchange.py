"""Time and count the exchange at the end of a round, beside what it is to be compared with.

In one run, with real processes and real networks: ResIST and local SGD on this project's
engine; the exchange as the paper describes it (a collective for each parameter, a new process
group for each block); torch's own PeriodicModelAverager over the whole model. They take turns of
a few rounds, so that a machine whose speed drifts is as fast for one as for another. Every turn
has new processes, which hold one model each, as in training; its first rounds warm up and do not
count. After the first exchange of each turn the result is checked against the mean that it
should be.

Seconds are medians over the rounds of the slowest worker. The guard's part of an exchange, its look
at the results and its votes, is timed once more on its own after each. Bytes are means, of all workers
together, every byte sent counted once: those of resist and local_sgd are what the workers
counted, and have to be the plan's; those of paper and torch_averager are worked out.

Examples:
    python tools/analysis_tools/benchmark_exchange.py --workers 4
    python tools/analysis_tools/benchmark_exchange.py --workers 8 --rounds 9 --json
    python tools/analysis_tools/benchmark_exchange.py --workers 4 --device cuda --codec q6
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from statistics import fmean, median
from typing import Any

from ..named_networks import ARCHITECTURES, CODECS
from .exchange_rounds import PROTOCOLS, measure
from .shaped_links import Link, shaped_links
from .workers import add_worker_arguments, backend_of, describe_machine, least_blocks, run_workers

RATIOS = [('paper', 'resist'), ('resist', 'local_sgd'), ('local_sgd', 'torch_averager')]
ROUNDS_OF_TURN = 3
MB = 1e6


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_worker_arguments(parser)
    parser.add_argument('--arch', choices=list(ARCHITECTURES), default='preact_resnet101')
    parser.add_argument('--rounds', type=int, default=5, help='timed rounds of each protocol; default: 5')
    parser.add_argument('--min-blocks', type=int, help='least number of partitioned blocks of a worker')
    parser.add_argument('--codec', choices=list(CODECS), default='none', help='of ResIST and local SGD')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    args = parser.parse_args()
    if args.workers < 2:
        parser.error(f'--workers must be at least 2 for an exchange, got {args.workers}')
    if args.rounds < 1:
        parser.error(f'--rounds must be at least 1, got {args.rounds}')
    return args


def take_turns(args: argparse.Namespace, links: Sequence[Link]) -> dict[str, list[dict[str, Any]]]:
    """Let every protocol measure some rounds, then every one again, until all rounds are measured.

    Returns:
        dict: By protocol, what :func:`measure` returns for each worker, with the rounds of all turns.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for first in range(0, args.rounds, ROUNDS_OF_TURN):
        num_rounds = min(ROUNDS_OF_TURN, args.rounds - first)
        for name in PROTOCOLS:
            backend = backend_of(args.device, args.workers)
            turn = run_workers(measure, args.workers, args, name, first, num_rounds, backend=backend, links=links)
            found[name] = [join_turns(a, b) for a, b in zip(found[name], turn, strict=True)] if first else turn
    return found


def join_turns(before: dict[str, Any], turn: dict[str, Any]) -> dict[str, Any]:
    """What a worker measured in several turns."""
    rounds = {key: before[key] + turn[key] for key in ('seconds', 'looking', 'voting', 'sent', 'planned')}
    return dict(rounds, buffers=max(before['buffers'], turn['buffers']))


def sum_up(args: argparse.Namespace, results: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Put the workers' measurements together."""
    rounds = {
        name: [max(of_round) for of_round in zip(*(r['seconds'] for r in results[name]), strict=True)]
        for name in PROTOCOLS
    }
    nbytes = {
        name: [sum(of_round) for of_round in zip(*(r['sent'] for r in results[name]), strict=True)]
        for name in PROTOCOLS
    }
    for name in PROTOCOLS:
        check_bytes(name, nbytes[name], results[name][0]['planned'])
    ours = ('resist', 'local_sgd')
    guard = {name: {key: _slowest(results[name], key) for key in ('looking', 'voting')} for name in ours}
    seconds = {name: median(of_rounds) for name, of_rounds in rounds.items()}
    return dict(
        arch=args.arch,
        workers=args.workers,
        min_blocks=args.min_blocks,
        backend=backend_of(args.device, args.workers),
        device=args.device,
        link=args.link,
        codec=args.codec,
        machine=describe_machine(),
        seconds=seconds,
        bytes={name: fmean(of_rounds) for name, of_rounds in nbytes.items()},
        ratios={f'{a}/{b}': seconds[a] / seconds[b] for a, b in RATIOS},
        seconds_of_rounds=rounds,
        bytes_of_rounds=nbytes,
        guard_seconds=guard,
        buffer_bytes={name: max(r['buffers'] for r in results[name]) for name in ours},
    )


def _slowest(of_workers: list[dict[str, Any]], key: str) -> float:
    """The median over the rounds of the slowest worker."""
    return median(max(of_round) for of_round in zip(*(r[key] for r in of_workers), strict=True))


def check_bytes(name: str, counted: list[float], planned: list[float | None]) -> None:
    """Compare the bytes that the workers counted with those of the plan.

    Raises:
        RuntimeError: If they differ.
    """
    for sent, plan in zip(counted, planned, strict=True):
        if plan is not None and abs(sent - plan) > 1:
            raise RuntimeError(f'{name}: the workers sent {sent} bytes, the plan says {plan}')


def print_table(summary: dict[str, Any]) -> None:
    """Print the measurements."""
    link = f', links of {summary["link"]}' if summary['link'] else ''
    rounds = len(summary['seconds_of_rounds']['resist'])
    print(f'{summary["machine"]}')
    print(
        f'{summary["arch"]}, {summary["workers"]} workers, {summary["backend"]}, {summary["device"]}{link}'
        f'{least_blocks(summary)}; codec: {summary["codec"]}; median of {rounds} rounds\n'
    )
    print(f'{"exchange":18}{"seconds":>10}{"fastest":>10}{"slowest":>10}{"MB":>12}')
    for name, seconds in summary['seconds'].items():
        of_rounds = summary['seconds_of_rounds'][name]
        print(
            f'{name:18}{seconds:10.3f}{min(of_rounds):10.3f}{max(of_rounds):10.3f}'
            f'{summary["bytes"][name] / MB:12.2f}'
        )
    print()
    for pair, ratio in summary['ratios'].items():
        print(f'{pair} seconds: {ratio:.2f}')
    for name, guard in summary['guard_seconds'].items():
        share = sum(guard.values()) / summary['seconds'][name]
        print(
            f'guard of {name}: {share:.1%} of its exchange; checking the results takes '
            f'{1e3 * guard["looking"]:.2f} ms, its votes {1e3 * guard["voting"]:.2f} ms'
        )
    buffers = summary['buffer_bytes']
    print('buffers of a worker: ' + ', '.join(f'{name} {nbytes / MB:.1f} MB' for name, nbytes in buffers.items()))


def main() -> None:
    """Measure, and print."""
    args = parse_args()
    try:
        with ExitStack() as stack:
            links = stack.enter_context(shaped_links(args.workers, args.link)) if args.link else []
            summary = sum_up(args, take_turns(args, links))
    except (RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_exchange.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(summary, indent=1)) if args.json else print_table(summary)
