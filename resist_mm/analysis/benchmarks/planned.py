"""Compare what plan_run.py predicts with rounds that are run.

Every worker has a network namespace of its own with a link of a given rate, and a share of a processor, so that
iterations last equally long whatever else this machine does (Linux, root; both are removed at the end). The
workers time iterations and codecs, and the seconds of a round are predicted from these and the rate of the link.
Then they train by ResIST, local SGD and data-parallel, with each codec, each length of a round and each overlap.
The bytes have to be those that are predicted.

Examples:
    sudo python tools/analysis_tools/benchmark_plan.py CONFIG --link 20mbit
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from typing import Any

from ..cost.counted_run import DEFAULT_LOCAL_ITERS, config_run
from ..named_networks import CODECS
from ..plan import Costs, LinkSpeed, Setting, settings_of
from ..plan.command import NAMES
from .cpu_quotas import cpu_quotas
from .planned_rounds import Key, train
from .shaped_links import shaped_links
from .workers import describe_machine, run_workers

MB = 1e6


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='the config of a run')
    parser.add_argument('--workers', type=int, default=4, metavar='S', help='default: 4')
    parser.add_argument('--link', metavar='RATE', default='20mbit', help='of every worker; default: 20mbit')
    parser.add_argument('--share', type=float, default=0.25, help='of a core, for each worker; default: 0.25')
    parser.add_argument('--codec', nargs='+', choices=list(CODECS), default=['none', 'q6', 'c2'])
    parser.add_argument('--local-iters', type=int, nargs='+', default=[4, 12], help='default: 4 12')
    parser.add_argument('--overlap-iters', type=int, nargs='+', default=[0, 2], help='default: 0 2')
    parser.add_argument('--rounds', type=int, default=2, help='of each setting; default: 2')
    parser.add_argument('--iterations', type=int, default=10, help='timed for the prediction; default: 10')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of a table')
    args = parser.parse_args()
    for name in ('workers', 'share', 'local_iters', 'rounds', 'iterations'):
        given = getattr(args, name)
        if min(given if isinstance(given, list) else [given]) <= 0:
            parser.error(f'--{name.replace("_", "-")} must be above 0, got {given}')
    if min(args.overlap_iters) < 0:
        parser.error(f'--overlap-iters must be at least 0, got {args.overlap_iters}')
    return args


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Predict, run, and put both together.

    Raises:
        RuntimeError: If a worker fails, or the bytes are not those that were predicted.
        ValueError: If the config or the link is wrong.
    """
    of_command = argparse.Namespace(
        config=args.config, image_size=None, dataset=None, batch_size=None, local_iters=None
    )
    run = config_run(of_command, DEFAULT_LOCAL_ITERS)
    run = replace(run, codecs={name: CODECS[name] for name in args.codec})

    def settings(costs: Costs) -> list[Setting]:
        found = settings_of(run, args.workers, args.local_iters, costs, args.rounds, 0, args.overlap_iters)
        return [s for s in found if s.protocol != 'ddp' or s.local_iters == min(args.local_iters)]

    keys = [key_of(setting) for setting in settings(Costs(1.0, 0.0, LinkSpeed.of_text(args.link)))]
    with cpu_quotas([args.share] * args.workers) as quotas, shaped_links(args.workers, args.link) as links:
        if quotas[0].folder is None:
            raise RuntimeError('control groups cannot be made here, so iterations would not last equally long')
        results = run_workers(train, args.workers, args, run, keys, quotas, links=links)
    costs: Costs = results[0]['costs']
    rows = [compare(s, [result['measured'][key_of(s)] for result in results]) for s in settings(costs)]
    return dict(vars(args), machine=describe_machine(), costs=asdict(costs), rows=rows)


def key_of(setting: Setting) -> Key:
    """What distinguishes a setting from others."""
    return setting.protocol, setting.codec, setting.local_iters, setting.overlap_iters


def compare(setting: Setting, measured: list[tuple[float, float, int]]) -> dict[str, Any]:
    """A setting beside what the workers have measured.

    Raises:
        RuntimeError: If the bytes differ.
    """
    seconds, nbytes = max(of[0] for of in measured), measured[0][1]
    if setting.protocol != 'ddp' and abs(nbytes - setting.bytes) > 0.5:
        raise RuntimeError(
            f'{setting.protocol}, {setting.codec}: the workers sent {nbytes} bytes a round, predicted were '
            f'{setting.bytes}'
        )
    return dict(
        asdict(setting),
        measured_sec=seconds,
        off=setting.seconds / seconds - 1,
        on_link=sum(of[2] for of in measured),
    )


def print_table(summary: dict[str, Any]) -> None:
    """Print the comparison."""
    costs, rounds = summary['costs'], summary['rounds']
    print(
        f'{summary["machine"]}\n{summary["config"]}: {summary["workers"]} workers with {summary["share"]:g} of a '
        f'core each, links of {summary["link"]}\nan iteration: {costs["whole_sec"]:.4f} s, '
        f'{costs["block_sec"]:.4f} s of it for each partitioned block; {rounds} rounds of each setting\n'
    )
    print(f'{"":36}{"seconds of a round":^48}{"MB of a round":^24}'.rstrip())
    heads = ('exchange', 'predicted', 'measured', 'off', 'predicted', 'on the link')
    print(f'{"protocol":15}{"codec":6}{"iters":>6}{"overlap":>9}' + ''.join(f'{head:>12}' for head in heads))
    for row in summary['rows']:
        print(
            f'{NAMES[row["protocol"]]:15}{row["codec"]:6}{row["local_iters"]:6}{row["overlap_iters"]:9}'
            f'{row["exchange_sec"]:12.3f}{row["seconds"]:12.3f}{row["measured_sec"]:12.3f}{row["off"]:+12.1%}'
            f'{row["bytes"] / MB:12.3f}{row["on_link"] / MB:12.3f}'
        )
    print(f'\nmost off: {max(abs(row["off"]) for row in summary["rows"]):.1%}')


def main() -> None:
    """Measure, and print."""
    args = parse_args()
    try:
        summary = measure(args)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f'benchmark_plan.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    print(json.dumps(summary, indent=1)) if args.json else print_table(summary)
