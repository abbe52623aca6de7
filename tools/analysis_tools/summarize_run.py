"""Sum up a finished run: its rounds, the bytes exchanged, the metrics of its last test.

Example:
    python tools/analysis_tools/summarize_run.py work_dirs/yolo_resist_voc
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from _runs import read_run


def main() -> None:
    """Print the summary; fail if a metric is lower than asked for."""
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
    for name, value in summary.metrics.items():
        if name not in ('time', 'data_time'):
            print(f'{name}: {value:.4g}')
    if args.at_least:
        name, least = args.at_least[0], float(args.at_least[1])
        if summary.metrics.get(name, float('-inf')) < least:
            sys.exit(f'{name} is {summary.metrics.get(name, "missing")}, expected at least {least}')


if __name__ == '__main__':
    main()
