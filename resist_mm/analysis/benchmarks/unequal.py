"""Workers of unequal speed: how long they wait for each other, and how many images they train on.

Four workers with shares of a processor of 1 : 1 : 2 : 4 train by ResIST: with equal hands, with blocks by speed,
with iterations by speed, and with both. First the workers measure and agree for some rounds, which do not count.

"idle" is the share of a round that a worker spends in votes, where it waits for the slowest: the mean over all
workers, and that of the worker that waits longest.

Examples:
    sudo python tools/analysis_tools/benchmark_unequal.py
    python tools/analysis_tools/benchmark_unequal.py --shares 0.5 1 --rounds 2 --json
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .cpu_quotas import Quota, cpu_quotas
from .unequal_rounds import SETTINGS, train
from .workers import describe_machine, run_workers

OPTIONS = ['shares', 'blocks', 'channels', 'min_blocks', 'batch_size', 'local_iters', 'settle', 'rounds']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--shares', type=float, nargs='+', default=[0.2, 0.2, 0.4, 0.8], help='of a core; default: 0.2 0.2 0.4 0.8'
    )
    parser.add_argument(
        '--blocks', type=int, default=11, help='partitioned blocks of each of two stages; default: 11'
    )
    parser.add_argument('--channels', type=int, default=16, help='of the first stage; default: 16')
    parser.add_argument('--min-blocks', type=int, default=1, help='of a worker; default: 1')
    parser.add_argument('--batch-size', type=int, default=8, help='of a worker; default: 8')
    parser.add_argument('--local-iters', type=int, default=20, help='iterations of a round; default: 20')
    parser.add_argument(
        '--settle', type=int, default=5, help='rounds before those that count, 1 with equal hands; default: 5'
    )
    parser.add_argument('--rounds', type=int, default=3, help='rounds that count; default: 3')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    args = parser.parse_args()
    for name in OPTIONS:
        if min(given if isinstance(given := getattr(args, name), list) else [given]) <= 0:
            parser.error(f'--{name.replace("_", "-")} must be above 0, got {given}')
    return args


def sum_up(args: argparse.Namespace, results: list[dict[str, Any]]) -> dict[str, Any]:
    """Put the workers' measurements under a setting together."""
    seconds = max(sum(r['seconds']) for r in results)
    idle = [sum(r['waited']) / sum(r['seconds']) for r in results]
    return dict(
        idle=sum(idle) / len(idle),
        idle_most=max(idle),
        idle_of_workers=idle,
        images_per_sec=args.batch_size * sum(sum(r['iterations']) for r in results) / seconds,
        seconds_of_round=seconds / args.rounds,
        iterations=[sum(r['iterations']) / args.rounds for r in results],
        hands=results[0]['hands'],
        shared=results[0]['shared'],
    )


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Run every setting, in new processes each."""
    settings, way = {}, ''
    for name in SETTINGS:
        with cpu_quotas(args.shares) as quotas:
            way = _way(quotas)
            settings[name] = sum_up(args, run_workers(train, len(args.shares), args, name, quotas))
    base = settings['equal hands']['images_per_sec']
    for found in settings.values():
        found['speedup'] = found['images_per_sec'] / base
    options = {key: getattr(args, key) for key in OPTIONS}
    return dict(options, quotas=way, machine=describe_machine(), settings=settings)


def _way(quotas: list[Quota]) -> str:
    return 'duty cycles' if quotas[0].folder is None else 'quotas of control groups'


def print_table(summary: dict[str, Any]) -> None:
    """Print the measurements."""
    shares = ' : '.join(f'{share:g}' for share in summary['shares'])
    print(
        f'{summary["machine"]}\n{len(summary["shares"])} workers with {shares} of a core ({summary["quotas"]}); '
        f'{2 * summary["blocks"]} partitioned blocks, at least {summary["min_blocks"]} a worker, batch '
        f'{summary["batch_size"]}, {summary["local_iters"]} iterations a round; {summary["rounds"]} rounds after '
        f'{summary["settle"]}\n'
    )
    print(f'{"":21}{"idle":>8}{"longest":>9}{"s a round":>11}{"images/s":>10}{"ratio":>7}  blocks; iterations')
    for name, found in summary['settings'].items():
        iterations = ' '.join(f'{count:.3g}' for count in found['iterations'])
        print(
            f'{name:21}{found["idle"]:8.1%}{found["idle_most"]:9.1%}{found["seconds_of_round"]:11.2f}'
            f'{found["images_per_sec"]:10.1f}{found["speedup"]:7.2f}  '
            f'{" ".join(map(str, found["hands"]))}; {iterations}'
        )


def main() -> None:
    """Measure, and print."""
    args = parse_args()
    try:
        summary = measure(args)
    except (RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_unequal.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(summary, indent=1)) if args.json else print_table(summary)
