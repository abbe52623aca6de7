"""Train the rows of docs/results on two CPU cores, and write what comes out.

May be interrupted at any moment, also by SIGKILL: called again, it goes on from the newest checkpoint of the row
that was running, and leaves out what is finished. After each row its record, log, table and pictures are written.

Examples:
    RESIST_MM_CIFAR10=/data/cifar10 python tools/analysis_tools/reproduce.py cifar10
    nohup nice python tools/analysis_tools/reproduce.py all >reproduce.log 2>&1 &
    python tools/analysis_tools/reproduce.py all --report
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from pathlib import Path
from types import FrameType

from ...checkpoint import WorkDirInUse
from .detections import draw_detections
from .records import write_record
from .report import write_report
from .rows import SETS, Row, rows_of
from .running import command_of, finished, run_rows

__all__ = ['main']


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sets', nargs='+', metavar='SET', help=f'of {", ".join(SETS)}; all for all of them')
    parser.add_argument(
        '--work-dirs', type=Path, default=Path('work_dirs/reproduce'), help='default: work_dirs/reproduce'
    )
    parser.add_argument('--out', type=Path, default=Path('docs/results'), help='default: docs/results')
    parser.add_argument('--report', action='store_true', help='train nothing: write the results of finished rows')
    parser.add_argument('--list', action='store_true', help='print the rows, their state and their commands')
    args = parser.parse_args()
    if unknown := set(args.sets) - {*SETS, 'all'}:
        parser.error(f'there is no set {", ".join(sorted(unknown))}; there are {", ".join(SETS)}, and all')
    return args


def main() -> None:
    """Run."""
    args = parse_args()
    rows = rows_of(args.sets)
    if not rows:
        sys.exit(f'reproduce.py: {", ".join(args.sets)} has no rows yet')
    if args.list:
        for row in rows:
            state = 'finished' if finished(args.work_dirs / row.name) else 'to do'
            print(f'{row.name}: {state}\n    {shlex.join(command_of(row, args.work_dirs))}')
        return

    def done(row: Row) -> None:
        write_record(row, args.work_dirs / row.name, args.out / row.results)
        if SETS[row.results].draws:
            draw_detections(row, args.work_dirs / row.name, args.out / row.results)
        write_report(row.results, args.out / row.results)

    if args.report:
        for row in rows:
            if finished(args.work_dirs / row.name):
                done(row)
        return
    for name in sorted({SETS[row.results].data for row in rows}):
        if not os.environ.get(name):
            sys.exit(f'reproduce.py: {name} must say where the images are: export {name}=/path/')
    signal.signal(signal.SIGTERM, _end)
    try:
        failed = run_rows(rows, args.work_dirs, done)
    except WorkDirInUse as error:
        sys.exit(f'reproduce.py: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
    if failed:
        sys.exit(f'reproduce.py: failed: {", ".join(row.name for row in failed)}')


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt  # so that the row is stopped as well
