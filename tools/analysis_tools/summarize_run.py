"""Sum up a finished run: its rounds, the bytes exchanged, the metrics of its last test.

Example:
    python tools/analysis_tools/summarize_run.py work_dirs/yolo_resist_voc
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROUND = re.compile(
    r'Round (?P<index>\d+): depth (?P<depth>\d+) of (?P<blocks>\d+) blocks, (?P<iters>\d+) iterations in '
    r'(?P<compute_sec>[\d.]+) s, exchange in (?P<exchange_sec>[\d.]+) s; .*all workers (?P<total_mb>[\d.]+) MB'
)
PROTOCOL = re.compile(r'(\d+) workers train sub-ResNets with \[([\d, ]+)\] of (\d+) partitioned blocks')


@dataclass
class RunSummary:
    """What the logs of a run say.

    Attributes:
        workers: Number of workers and the depths of their sub-ResNets, in words; empty without ResIST.
        rounds: The rounds in order; a round that was trained again after resuming counts as trained last.
        metrics: The metrics of the last test.
    """

    workers: str
    rounds: dict[int, dict[str, float]]
    metrics: dict[str, float]

    def total(self, key: str) -> float:
        """The sum of something over all rounds."""
        return sum(r[key] for r in self.rounds.values())


def read_run(work_dir: Path) -> RunSummary:
    """Read the logs in a work dir, in the order of their times.

    Raises:
        FileNotFoundError: If there is no log.
    """
    logs = sorted(work_dir.glob('*/*.log'))
    if not logs:
        raise FileNotFoundError(f'there is no log in {work_dir}: give the work dir of a run')
    workers, rounds, metrics = '', {}, {}
    for log in logs:
        text = log.read_text()
        for match in PROTOCOL.finditer(text):
            workers = f'{match[1]} workers, sub-ResNets with {match[2]} of {match[3]} partitioned blocks'
        for match in ROUND.finditer(text):
            rounds[int(match['index'])] = {key: float(value) for key, value in match.groupdict().items()}
        tested = log.with_suffix('.json')
        if tested.is_file():
            metrics = json.loads(tested.read_text())
    return RunSummary(workers, rounds, metrics)


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
            f'{summary.total("compute_sec"):.1f} s of training, {summary.total("exchange_sec"):.1f} s of exchange; '
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
