"""Runs rows one after the other, and goes on where it was interrupted."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

from ...checkpoint import lock_folder, newest_whole
from ..paper.commands import as_options
from ..runs import read_run
from .rows import Row

__all__ = ['ATTEMPTS', 'command_of', 'finished', 'run_rows', 'spent_seconds']

ATTEMPTS = 3
ROOT = Path(__file__).parents[3]
SHOW_EVERY_SEC = 60.0
POLL_SEC = 0.5
SPENT = 'seconds.json'
TRAINED = re.compile(r'(?:Iter|Epoch)\(train\).*?\[.*')


def command_of(row: Row, folder: Path | str, resume: bool = False) -> list[str]:
    """The command that trains a row, from the root of a clone.

    Args:
        row (Row): The row.
        folder (Path or str): Of the work dirs.
        resume (bool): Whether to go on from the newest checkpoint. Defaults to False.
    """
    command = [
        'tools/dist_train.sh',
        f'configs/{row.config}',
        str(row.workers),
        '--work-dir',
        f'{folder}/{row.name}',
    ]
    return [*command, *['--resume'] * resume, '--cfg-options', *as_options(row.all_options)]


def finished(work_dir: Path) -> bool:
    """Whether the training in a work dir was validated at its end."""
    try:
        run = read_run(work_dir)
    except FileNotFoundError:
        return False
    return run.length is not None and run.finished


def run_rows(rows: Sequence[Row], folder: Path, done: Callable[[Row], object]) -> list[Row]:
    """Train what is not finished.

    A row that was interrupted goes on from its newest checkpoint that is whole; what one without a checkpoint has
    left behind is removed. A row that fails is tried again, and left out after some attempts.

    Args:
        rows (Sequence[Row]): In this order.
        folder (Path): Of the work dirs; only one process at a time may run rows there.
        done (Callable): Called with every finished row, also with those that were finished before.

    Returns:
        list[Row]: Rows that have failed.

    Raises:
        WorkDirInUse: If another process runs rows in this folder.
    """
    lock_folder(folder)
    failed = []
    for number, row in enumerate(rows, 1):
        for attempt in range(ATTEMPTS):
            if finished(folder / row.name):
                break
            ahead = f'row {number} of {len(rows)}'
            _say(f'{ahead}: {row.name}' + (f', attempt {attempt + 1}' if attempt else ''))
            code = _train(row, folder, ahead)
            if code:
                _say(f'{row.name} ended with {code}: {folder / row.name}/output.txt')
        if finished(folder / row.name):
            done(row)
        else:
            failed.append(row)
    return failed


def spent_seconds(work_dir: Path) -> float:
    """Seconds on a clock that all attempts at a row took together, with starting and validation."""
    with suppress(FileNotFoundError, ValueError):
        return float(json.loads((work_dir / SPENT).read_text()))
    return 0.0


def _train(row: Row, folder: Path, ahead: str) -> int:
    """Start or resume the training of a row, and wait for it; returns its exit status.

    The lines that show how far it is begin with ``ahead``.
    """
    work_dir = folder / row.name
    newest, passed_over = newest_whole(work_dir) if work_dir.is_dir() else (None, [])
    for complaint in passed_over:
        _say(f'{ahead}: passed over: {complaint}')
    if newest is None and work_dir.is_dir():
        shutil.rmtree(work_dir)
    work_dir.mkdir(parents=True, exist_ok=True)
    before, began = spent_seconds(work_dir), time.monotonic()
    environment = {'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'OMP_NUM_THREADS': '1'}
    with open(work_dir / 'output.txt', 'a') as output:
        process = subprocess.Popen(
            command_of(row, folder.absolute(), resume=newest is not None),
            cwd=ROOT,
            env={**os.environ, 'VIRTUAL_ENV': sys.prefix, 'CUDA_VISIBLE_DEVICES': '', **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        shown = began
        while process.poll() is None:
            time.sleep(POLL_SEC)
            if time.monotonic() - shown > SHOW_EVERY_SEC:
                shown = time.monotonic()
                (work_dir / SPENT).write_text(json.dumps(before + shown - began))
                _say(f'{ahead}: {_last_iteration(work_dir)}')
    finally:
        if process.poll() is None:
            _stop(process)
        (work_dir / SPENT).write_text(json.dumps(before + time.monotonic() - began))
    return process.returncode


def _stop(process: subprocess.Popen) -> None:
    # the launcher stops its workers when it is told to
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _last_iteration(work_dir: Path) -> str:
    """What the log says last of the training: iteration, loss and mmengine's estimate of when it ends."""
    logs = sorted(work_dir.glob('*/*.log'))
    lines = TRAINED.findall(logs[-1].read_text()) if logs else []
    if not lines:
        return 'has not logged an iteration yet'
    line = re.sub(r'\s+', ' ', lines[-1])
    left = re.search(r'eta: (?:(\d+) days?, )?(\d+):(\d\d):(\d\d)', line)
    if left is None:
        return line
    days, hours, minutes, seconds = (int(value or 0) for value in left.groups())
    end = datetime.now() + timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    return f'{line} (ends about {end:%m-%d %H:%M})'


def _say(text: str) -> None:
    print(f'{datetime.now():%m-%d %H:%M:%S} {text}', flush=True)
