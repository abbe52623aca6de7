"""The real launcher, killed and stopped at random moments: no orphans, and the job can be started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from resist_mm.checkpoint import DIGEST_KEY, newest_whole, read_checkpoint
from tests import generated_sets
from tests.test_tools.commands import ROOT
from tests.test_tools.test_supervised_runs import CONFIG, is_running

LIMIT_SEC = 120
ITERS = 80
HIT_AFTER = (10, 30)  # the checkpoint after which the launcher is hit


@pytest.mark.slow  # a quick machine may end the job before it is hit
@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='workers die with their launcher on Linux')
def test_a_launcher_that_is_killed_and_then_stopped(tmp_path: Path) -> None:
    """SIGKILL after the first checkpoint, SIGTERM after the second one; the third start finishes the job."""
    rng = random.Random(5)
    images = generated_sets.make_image_folders(tmp_path / 'images', ('train', 'test'), tuple('abcdefghij'), 4)
    path = tmp_path / 'config.py'
    config = CONFIG.format(root=ROOT, folder=tmp_path, what='nothing')
    for old, new in (('at_iter=26', 'at_iter=-1'), ('max_iters=40', f'max_iters={ITERS}')):
        assert old in config
        config = config.replace(old, new)
    path.write_text(config)
    disturbed, undisturbed = tmp_path / 'run', tmp_path / 'undisturbed'
    for number, after in zip((signal.SIGKILL, signal.SIGTERM), HIT_AFTER, strict=True):
        resume = ['--resume'] if disturbed.exists() else []
        launcher = _start(path, disturbed, str(images), *resume)
        _wait_for(lambda at=after: _iteration(disturbed) >= at, launcher)
        workers = _descendants(launcher.pid)
        assert len(workers) >= 2
        time.sleep(rng.uniform(0, 0.5))
        saved = _iteration(disturbed)
        launcher.send_signal(number)
        launcher.communicate(timeout=LIMIT_SEC)
        assert not [worker for worker in workers if is_running(worker)], 'orphans'
        assert _iteration(disturbed) >= saved
    assert _start(path, disturbed, str(images), '--resume').wait(LIMIT_SEC) == 0
    assert _start(path, undisturbed, str(images)).wait(LIMIT_SEC) == 0
    assert _digest(disturbed) == _digest(undisturbed)


def _start(config: Path, work_dir: Path, images: str, *arguments: str) -> subprocess.Popen:
    env = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
        'RESIST_MM_CIFAR10': images,
    }
    command = [ROOT / 'tools/dist_train.sh', config, '2', '--work-dir', work_dir, *arguments]
    with open(config.with_name('log'), 'a') as log:
        return subprocess.Popen(list(map(str, command)), cwd=ROOT, env=env, stdout=log, stderr=log)


def _wait_for(reached: Callable[[], bool], launcher: subprocess.Popen) -> None:
    until = time.monotonic() + LIMIT_SEC
    while not reached():
        assert launcher.poll() is None, 'the job has ended before it was hit'
        assert time.monotonic() < until
        time.sleep(0.05)


def _iteration(work_dir: Path) -> int:
    newest, passed_over = newest_whole(work_dir)
    assert not passed_over
    return read_checkpoint(newest)['meta']['iter'] if newest else 0


def _digest(work_dir: Path) -> str:
    newest, _ = newest_whole(work_dir)
    assert newest is not None and newest.name == f'iter_{ITERS}.pth'
    return read_checkpoint(newest)['meta'][DIGEST_KEY]


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path('/proc').glob('[0-9]*/stat'):
        with suppress(OSError):  # it has just ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(')')[2].split()[1])
    found = [pid]
    for ancestor in found:
        found += [child for child, parent in parents.items() if parent == ancestor]
    return found[1:]
