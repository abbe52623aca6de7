"""Summarize a finished run: its rounds, the bytes exchanged, the metrics of its last test.

Example:
    python tools/analysis_tools/summarize_run.py work_dirs/yolo_resist_voc
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .runs import read_run

NOT_METRICS = {'time', 'data_time', 'step'}


def main() -> None:
    """Print the summary; fail if a metric is below the requested value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument(
        '--at-least', nargs=2, metavar=('METRIC', 'VALUE'), help='exit with 1 if this metric is below the value'
    )
    args = parser.parse_args()
    try:
        summary = read_run(args.work_dir)
    except FileNotFoundError as error:
        sys.exit(str(error))
    if summary.workers:
        print(summary.workers)
    if summary.rounds:
        print(
            f'{len(summary.rounds)} rounds, {summary.total("iters"):.0f} iterations: '
            f'{summary.total("compute_sec"):.1f} s of training, '
            f'{summary.total("exchange_sec"):.1f} s of exchange; '
            f'all workers together sent {summary.total("total_mb"):.1f} MB'
        )
    for name in sorted({name for metrics in summary.validations.values() for name in metrics} - NOT_METRICS):
        values = [m[name] for _, m in sorted(summary.validations.items()) if name in m]
        print(
            f'{name} in {len(values)} validations: {min(values):.4g} to {max(values):.4g}, '
            f'at the end {values[-1]:.4g}'
        )
    for name, value in summary.metrics.items():
        if name not in NOT_METRICS:
            print(f'{name} in the test: {value:.4g}')
    if args.at_least:
        name, least = args.at_least[0], float(args.at_least[1])
        if summary.metrics.get(name, float('-inf')) < least:
            sys.exit(f'{name} is {summary.metrics.get(name, "missing")}, expected at least {least}')
