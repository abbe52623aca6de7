"""Print the paper's tables beside what finished runs have measured, or the commands that run them.

Runs are found by the configs in their work dirs, anywhere below a folder; several runs of one config with the same
options are trials. Unfinished runs are left out.

Examples:
    python tools/analysis_tools/paper_table.py --commands 9 fig6
    python tools/analysis_tools/paper_table.py 2 4 --runs work_dirs --format markdown
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmengine.config import Config

from ..runs import RunSummary, read_run, read_test
from .commands import print_commands
from .results import TABLES, Cell
from .trainings import TRAININGS, training_of

HEADER = ('table', 'run', 'quantity', 'paper', 'best', 'final', 'best / paper', 'trials')
NO_RUN = 'no run'
NOT_LOGGED = 'not logged'  # data-parallel runs do not count bytes, for one
BYTES = ('GB', 'GB a round')
BYTES_NOTE = (
    'Measured GB are the bytes that all workers sent, each counted once; the paper counts an upload and a '
    'download of everything that a worker holds (comm_cost.py prints both).'
)
METRICS = {'top-1': ('accuracy/top1', max), 'test loss': ('/loss', min)}


@dataclass
class Trial:
    """A run.

    Attributes:
        work_dir: Where it is.
        run: What its logs say.
        training: Name of the training that it is a trial of; empty if there is none.
    """

    work_dir: Path
    run: RunSummary
    training: str = ''


def find_trials(folder: Path) -> list[Trial]:
    """All runs below a folder, by their logs."""
    work_dirs = sorted({log.parents[1] for log in folder.rglob('*.log') if log.parent.name == log.stem})
    runs = [(work_dir, read_run(work_dir)) for work_dir in work_dirs]
    return [Trial(work_dir, run, _name_of(work_dir, run)) for work_dir, run in runs]


def _name_of(work_dir: Path, run: RunSummary) -> str:
    if run.config not in {Path(training.config).stem for training in TRAININGS.values()}:
        return ''
    cfg = Config.fromfile(work_dir / f'{run.config}.py', import_custom_modules=False)
    training = training_of(run.config, run.num_workers, cfg)
    return training.name if training else ''


def measure(cell: Cell, run: RunSummary, trials: Sequence[Trial]) -> tuple[float, float] | None:
    """Best and final value of a quantity in one run; None if the run does not say."""
    if cell.quantity in METRICS:
        values = values_of(cell, [run.validations[step] for step in sorted(run.validations)])
        return (METRICS[cell.quantity][1](values), values[-1]) if values else None
    value = _single_value(cell, run, trials)
    return (value, value) if value else None


def values_of(cell: Cell, metrics: Iterable[dict[str, float]]) -> list[float]:
    """A metric of some validations or tests; the prefix of its name does not matter."""
    end = METRICS[cell.quantity][0]
    return [value for of_one in metrics for name, value in of_one.items() if name.endswith(end)]


def _single_value(cell: Cell, run: RunSummary, trials: Sequence[Trial]) -> float | None:
    if cell.quantity == 'speed-up':
        baseline = [t.run.train_sec for t in trials_of(trials, cell.baseline) if t.run.train_sec]
        return statistics.mean(baseline) / run.train_sec if baseline and run.train_sec else None
    if cell.quantity.startswith('hours to '):
        seconds = run.sec_until('accuracy/top1', float(cell.quantity.removeprefix('hours to ')))
        return None if seconds is None else seconds / 3600
    values = {
        'seconds': run.train_sec,
        'hours': run.train_sec / 3600,
        'GB': run.total('total_mb') / 1e3,
        # the median, because rounds that end in a validation make the model whole, which takes more
        'GB a round': statistics.median([r['total_mb'] / 1e3 for r in run.rounds.values()] or [0]),
    }
    return values[cell.quantity]


def trials_of(trials: Sequence[Trial], training: str) -> list[Trial]:
    """The finished runs of a training."""
    return [trial for trial in trials if trial.training == training and trial.run.finished]


def row_of(cell: Cell, trials: Sequence[Trial]) -> list[str]:
    """A line of the table."""
    found = trials_of(trials, cell.training)
    if cell.tested:
        measured = _measure_tests(cell, found)
    else:
        measured = [m for m in (measure(cell, trial.run, trials) for trial in found) if m is not None]
    row = [cell.table, cell.label, cell.quantity, paper_figure(cell)]
    if not measured:
        return [*row, *[NOT_LOGGED if found else NO_RUN] * 2, '', str(len(found))]
    best, final = zip(*measured, strict=True)
    comparable = cell.paper is not None and cell.quantity not in BYTES
    ratio = f'{statistics.mean(best) / cell.paper:.3f}' if comparable else ''
    return [*row, _mean(best), _mean(final), ratio, str(len(measured))]


def paper_figure(cell: Cell) -> str:
    """The paper's figure, with its deviation if it has one."""
    if cell.paper is None:
        return ''
    return f'{cell.paper:g}' if cell.deviation is None else f'{cell.paper:g} ± {cell.deviation:g}'


def _measure_tests(cell: Cell, found: Sequence[Trial]) -> list[tuple[float, float]]:
    # the members of an ensemble share one test
    folders = sorted({(trial.work_dir / cell.tested).resolve() for trial in found})
    return [(value, value) for value in values_of(cell, map(read_test, folders))]


def _mean(values: Sequence[float]) -> str:
    mean = f'{statistics.mean(values):.4g}'
    return f'{mean} ± {statistics.stdev(values):.2g}' if len(values) > 1 else mean


def render(rows: list[list[str]], style: str) -> str:
    """Write a table as 'text', 'markdown' or 'csv'."""
    lines = [list(HEADER), *rows]
    if style == 'csv':
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator='\n').writerows(lines)
        return buffer.getvalue().rstrip('\n')
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEADER))]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    if style == 'markdown':
        padded.insert(1, ['-' * width for width in widths])
        return '\n'.join(f'| {" | ".join(line)} |' for line in padded)
    return '\n'.join('  '.join(line).rstrip() for line in padded)


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tables', nargs='*', metavar='TABLE', help=f'of {", ".join(TABLES)}; default: all')
    parser.add_argument(
        '--runs', type=Path, default=Path('work_dirs'), help='folder of the runs; default: work_dirs'
    )
    parser.add_argument('--commands', action='store_true', help='print the commands of the runs, not the tables')
    parser.add_argument('--format', choices=['text', 'markdown', 'csv'], default='text')
    args = parser.parse_args()
    if unknown := set(args.tables) - set(TABLES):
        parser.error(f'there is no table {", ".join(sorted(unknown))}; there are {", ".join(TABLES)}')
    if args.commands:
        return print_commands(args.tables or list(TABLES), str(args.runs))
    if not args.runs.is_dir():
        sys.exit(f'there is no folder {args.runs}: name the one that the work dirs are in with --runs')
    trials = find_trials(args.runs)
    for trial in trials:
        if trial.run.iterations and not trial.run.finished:  # the work dir of a test alone is not a run
            last = max(trial.run.validations, default=0)
            print(f'left out: {trial.work_dir} has come to {last} of {trial.run.length}', file=sys.stderr)
    cells = [cell for table in args.tables or TABLES for cell in TABLES[table]]
    print(render([row_of(cell, trials) for cell in cells], args.format))
    if args.format != 'csv' and any(cell.quantity in BYTES for cell in cells):
        print(f'\n{BYTES_NOTE}')
