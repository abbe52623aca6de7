"""Reads the logs of a run from its work dir."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ['HeldRound', 'RunSummary', 'read_run', 'read_test']

ROUND = re.compile(
    r'Round (?P<index>\d+): (?:depth (?P<depth>\d+) of (?P<blocks>\d+) blocks, )?(?P<iters>\d+) iterations in '
    r'(?P<compute_sec>[\d.]+) s, exchange in (?P<exchange_sec>[\d.]+) s; .*all workers (?P<total_mb>[\d.]+) MB'
)
PROTOCOL = re.compile(r'(\d+) workers train sub-ResNets with \[([\d, ]+)\] of (\d+) partitioned blocks')
WORKERS = re.compile(r'^\s*GPU number: (\d+)', re.MULTILINE)
VALIDATED = re.compile(r'(?:Epoch|Iter)\(val\)(?: \[\d+\])? ?\[(\d+)/\1\](?!.*\beta: )')
RESUMED = re.compile(r'resumed epoch: (?P<epoch>\d+), iter: (?P<iter>\d+)')
EPOCH_ITERS = re.compile(r'Epoch\(train\) +\[\d+\]\[ *\d+/(\d+)\]')
ROUNDS_FILE = 'rounds.jsonl'  # resist_mm/hooks/round_log.py writes it beside the log
LENGTH = re.compile(r'^train_cfg = dict\([^()]*\bmax_(?:epochs|iters)=(\d+)', re.MULTILINE)


@dataclass(frozen=True)
class HeldRound:
    """Who held what in a round.

    Attributes:
        blocks_of_workers: The partitioned blocks of worker 0, of worker 1, and so on; None: all held all of them.
        num_blocks: Number of partitioned blocks.
        left_out: The workers whose round did not count, because of bad numbers.
        whole: Whether the model was made whole at its end.
    """

    blocks_of_workers: tuple[tuple[int, ...], ...] | None
    num_blocks: int
    left_out: tuple[int, ...] = ()
    whole: bool = False


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
        validated_at: The iteration of a validation, by its step.
        rounds_before: Number of rounds before a validation, by its step.
        iterations: Seconds per iteration, by the iteration at which they were logged.
        losses: Training losses, by the iteration at which they were logged; of worker 0.
        held: Who held what, by round; rounds of versions that did not record it are missing.
        resumed_at: The iterations at which it was resumed.
    """

    workers: str
    rounds: dict[int, dict[str, float]]
    metrics: dict[str, float]
    config: str = ''
    num_workers: int = 1
    length: int | None = None
    validations: dict[int, dict[str, float]] = field(default_factory=dict)
    validated_at: dict[int, int] = field(default_factory=dict)
    rounds_before: dict[int, int] = field(default_factory=dict)
    iterations: dict[int, float] = field(default_factory=dict)
    losses: dict[int, dict[str, float]] = field(default_factory=dict)
    held: dict[int, HeldRound] = field(default_factory=dict)
    resumed_at: list[int] = field(default_factory=list)

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
        depths = ' or '.join(sorted(set(match[2].split(', ')), key=int))
        run.workers = f'{match[1]} workers, sub-ResNets with {depths} of {match[3]} partitioned blocks'
    tested = path.with_suffix('.json')
    if tested.is_file():
        run.metrics = _first_record(tested)
    trained, steps = _read_scalars(path.parent / 'vis_data/scalars.json', text, run)
    held = _read_held(path.parent / ROUNDS_FILE)
    rounds_before, resumed = [], False
    for line in text.splitlines():
        if ended := ROUND.search(line):
            index = int(ended['index'])
            if not resumed:  # what an earlier run did beyond the checkpoint was lost
                run.rounds = {i: of_round for i, of_round in run.rounds.items() if i < index}
                run.held = {i: of_round for i, of_round in run.held.items() if i < index}
                resumed = True
            run.rounds[index] = {key: float(value or 0) for key, value in ended.groupdict().items()}
            if index in held:
                run.held[index] = held[index]
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


def _read_scalars(path: Path, log: str, run: RunSummary) -> tuple[bool, list[int]]:
    """Read what was logged in a run; returns whether it trained, and the steps of its validations."""
    records = _records(path)
    trained = any('lr' in record for record in records)
    resumed, length = RESUMED.search(log), EPOCH_ITERS.search(log)
    epoch, iteration = (int(resumed['epoch']), int(resumed['iter'])) if resumed else (0, 0)
    if trained:
        _forget_after(iteration, run)
        run.resumed_at += [iteration] if iteration else []
    steps = []
    for scalars in records:
        if 'lr' in scalars:
            at = scalars.get('iter', scalars['step'])
            run.iterations[at] = scalars.get('time', 0.0)
            run.losses[at] = {name: value for name, value in scalars.items() if 'loss' in name}
        elif 'step' in scalars:
            step = scalars['step']
            run.validations[step] = scalars
            run.validated_at[step] = iteration + (step - epoch) * int(length[1]) if length else step
            steps.append(step)
    return trained, steps


def _forget_after(iteration: int, run: RunSummary) -> None:
    """Forget what an earlier run did beyond the checkpoint from which this one went on; 0: everything."""
    run.iterations = {at: value for at, value in run.iterations.items() if at <= iteration}
    run.losses = {at: value for at, value in run.losses.items() if at <= iteration}
    run.resumed_at = [at for at in run.resumed_at if at < iteration]
    lost = [step for step, at in run.validated_at.items() if at > iteration]
    for step in lost:
        del run.validations[step], run.validated_at[step]


def _read_held(path: Path) -> dict[int, HeldRound]:
    """Read who held what, by round."""
    held = {}
    for record in _records(path):
        of_workers = None if record['held'] == 'all' else tuple(map(tuple, record['held']))
        held[record['round']] = HeldRound(of_workers, record['blocks'], tuple(record['left_out']), record['whole'])
    return held


def _records(path: Path) -> list[dict]:
    """The objects in a file, one on each line; without a last one that was cut off when the run was killed."""
    lines = path.read_text().splitlines() if path.is_file() else []
    if lines and not lines[-1].rstrip().endswith('}'):
        lines.pop()
    return [json.loads(line) for line in lines if line]


def _first_record(path: Path) -> dict:
    # mmengine's LoggerHook lets every worker write this file, so the end of a longer record may follow the first
    return json.JSONDecoder().raw_decode(path.read_text())[0]
