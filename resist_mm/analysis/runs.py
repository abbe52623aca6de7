"""Reads the logs of a run from its work dir."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ['RunSummary', 'read_run', 'read_test']

ROUND = re.compile(
    r'Round (?P<index>\d+): (?:depth (?P<depth>\d+) of (?P<blocks>\d+) blocks, )?(?P<iters>\d+) iterations in '
    r'(?P<compute_sec>[\d.]+) s, exchange in (?P<exchange_sec>[\d.]+) s; .*all workers (?P<total_mb>[\d.]+) MB'
)
PROTOCOL = re.compile(r'(\d+) workers train sub-ResNets with \[([\d, ]+)\] of (\d+) partitioned blocks')
WORKERS = re.compile(r'^\s*GPU number: (\d+)', re.MULTILINE)
VALIDATED = re.compile(r'(?:Epoch|Iter)\(val\)(?: \[\d+\])? ?\[(\d+)/\1\](?!.*\beta: )')
LENGTH = re.compile(r'^train_cfg = dict\([^()]*\bmax_(?:epochs|iters)=(\d+)', re.MULTILINE)


@dataclass
class RunSummary:
    """The contents of a run's logs.

    Attributes:
        workers: Number of workers and the depths of their sub-ResNets, in words; empty without ResIST.
        rounds: The rounds in order; of a round that was trained again after resuming, the last attempt.
        metrics: The metrics of the last test.
        config: Name of the config, without ``.py``; empty if there is none in the work dir.
        num_workers: Number of workers.
        length: Epochs, or iterations, of the whole run; None if the config does not say.
        validations: The metrics of every validation, by the step (iteration or epoch) after which it ran.
        rounds_before: Number of rounds before a validation, by its step.
        iterations: Seconds per iteration, by the iteration at which they were logged.
    """

    workers: str
    rounds: dict[int, dict[str, float]]
    metrics: dict[str, float]
    config: str = ''
    num_workers: int = 1
    length: int | None = None
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    rounds_before: dict[int, int] = field(default_factory=dict)
    iterations: dict[int, float] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether the run was validated at its end."""
        return self.length is None or max(self.validations, default=0) >= self.length

    def total(self, key: str) -> float:
        """The sum of something over all rounds."""
        return sum(r[key] for r in self.rounds.values())

    @property
    def train_sec(self) -> float:
        """Seconds of training and exchanges, without validation; of worker 0."""
        if self.rounds:
            return self.total('compute_sec') + self.total('exchange_sec')
        seconds, previous = 0.0, 0
        for iteration, per_iteration in sorted(self.iterations.items()):
            seconds += (iteration - previous) * per_iteration
            previous = iteration
        return seconds

    def sec_until(self, metric: str, target: float) -> float | None:
        """Seconds of training until a validation reached a target; None if none did.

        A run without rounds is assumed to be equally fast throughout.
        """
        for step, metrics in sorted(self.validations.items()):
            if metrics.get(metric, float('-inf')) >= target:
                if self.rounds:
                    before = [r for i, r in self.rounds.items() if i < self.rounds_before[step]]
                    return sum(r['compute_sec'] + r['exchange_sec'] for r in before)
                return self.train_sec * step / max(self.validations)
        return None


def read_run(work_dir: Path) -> RunSummary:
    """Read the logs in a work dir, in the order of their times.

    Raises:
        FileNotFoundError: If there is no log.
    """
    logs = sorted(work_dir.glob('*/*.log'))
    if not logs:
        raise FileNotFoundError(f'there is no log in {work_dir}: give the work dir of a run')
    configs = sorted(work_dir.glob('*.py'))
    run = RunSummary('', {}, {}, configs[0].stem if configs else '')
    if configs and (length := LENGTH.search(configs[0].read_text())):
        run.length = int(length[1])
    for log in logs:
        _read_log(log, run)
    return run


def _read_log(path: Path, run: RunSummary) -> None:
    text = path.read_text()
    for match in PROTOCOL.finditer(text):
        run.workers = f'{match[1]} workers, sub-ResNets with {match[2]} of {match[3]} partitioned blocks'
    tested = path.with_suffix('.json')
    if tested.is_file():
        run.metrics = _first_record(tested)
    trained, steps = _read_scalars(path.parent / 'vis_data/scalars.json', run)
    rounds_before, resumed = [], False
    for line in text.splitlines():
        if ended := ROUND.search(line):
            index = int(ended['index'])
            if not resumed:  # what an earlier run did beyond the checkpoint was lost
                run.rounds = {i: of_round for i, of_round in run.rounds.items() if i < index}
                resumed = True
            run.rounds[index] = {key: float(value or 0) for key, value in ended.groupdict().items()}
            trained = True
        elif VALIDATED.search(line):
            rounds_before.append(max(run.rounds, default=-1) + 1)
    run.rounds_before.update(zip(steps, rounds_before, strict=False))  # a run may break off between the two
    workers = WORKERS.findall(text)
    if workers and trained:  # a test may have had another number
        run.num_workers = int(workers[-1])


def read_test(work_dir: Path) -> dict[str, float]:
    """The metrics of the last test in a work dir; empty if there was none."""
    tested = sorted(log.with_suffix('.json') for log in work_dir.glob('*/*.log'))
    tested = [path for path in tested if path.is_file()]
    return _first_record(tested[-1]) if tested else {}


def _read_scalars(path: Path, run: RunSummary) -> tuple[bool, list[int]]:
    """Read what was logged in a run; returns whether it trained, and the steps of its validations."""
    trained, steps = False, []
    for line in path.read_text().splitlines() if path.is_file() else []:
        scalars = json.loads(line)
        if 'lr' in scalars:
            run.iterations[scalars.get('iter', scalars['step'])] = scalars.get('time', 0.0)
            trained = True
        elif 'step' in scalars:
            run.validations[scalars['step']] = scalars
            steps.append(scalars['step'])
    return trained, steps


def _first_record(path: Path) -> dict:
    # mmengine's LoggerHook lets every worker write this file, so the end of a longer record may follow the first
    return json.JSONDecoder().raw_decode(path.read_text())[0]
