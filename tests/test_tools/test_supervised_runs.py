"""Workers and launchers that are lost: what happens, and what is said."""

from __future__ import annotations

import os
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests import generated_sets
from tests.test_tools.commands import ROOT, rounds_of, start_tool

CONFIG = """
_base_ = ['{root}/configs/_base_/cifar10_small.py', '{root}/configs/_base_/protocols/resist.py']
custom_imports = dict(imports=['resist_mm', 'tests.test_tools.faults'], allow_failed_imports=False)
runner_type = 'QuickRunner'
model = dict(backbone=dict(stage_blocks=(1, 1, 5, 1), base_channels=4))
train_dataloader = dict(batch_size=2, dataset=dict(max_images=None))
train_cfg = dict(max_iters=40, val_interval=1000)
val_cfg = None
val_dataloader = None
val_evaluator = None
default_hooks = dict(
    logger=dict(interval=1000), checkpoint=dict(interval=10, max_keep_ckpts=-1, save_best=None, rule=None)
)
custom_hooks = [
    dict(type='resist_mm.ResISTHook', local_iters=5, min_blocks=2),
    dict(type='Fault', mark='{folder}/mark', at_iter=26, what='{what}'),
]
visualizer = dict(type='Visualizer', vis_backends=[])
randomness = dict(seed=3, diff_rank_seed=True)
"""


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp('cifar10')
    return str(generated_sets.make_image_folders(root, ('train', 'test'), tuple('abcdefghij'), per_class=4))


def config(folder: Path, what: str) -> Path:
    path = folder / 'config.py'
    path.write_text(CONFIG.format(root=ROOT, folder=folder, what=what))
    return path


def weights(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=False)['state_dict']


def last_line(output: str) -> str:
    return output.strip().split('\n')[-1]


def test_a_killed_worker_is_replaced_and_the_run_continues(images: str, tmp_path: Path):
    """40 iterations, a worker killed in the 27th: rounds 4 and 5 are trained twice, from the 20th on."""
    path = config(tmp_path, 'kill')
    env = dict(RESIST_MM_CIFAR10=images, MAX_RESTARTS='2')
    run = start_tool('dist_train.sh', path, 2, '--work-dir', tmp_path / 'run', **env)
    assert run.returncode == 0, run.stdout[-8000:]
    assert 'Restarted: resuming from' in run.stdout and 'iter_20.pth' in run.stdout
    assert rounds_of(run.stdout) == [0, 1, 2, 3, 4, 4, 5, 6, 7]
    again = start_tool(
        'dist_train.sh', path, 2, '--work-dir', tmp_path / 'again', '--resume', tmp_path / 'run/iter_20.pth', **env
    )
    assert again.returncode == 0, again.stdout[-8000:]
    assert rounds_of(again.stdout) == [4, 5, 6, 7]
    expected = weights(tmp_path / 'again/iter_40.pth')
    for name, value in weights(tmp_path / 'run/iter_40.pth').items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('faulty', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_others_go_on_without_a_killed_worker(images: str, tmp_path: Path, faulty: int):
    """Worker 0 as well: the launcher keeps the store."""
    path = config(tmp_path, 'kill')
    path.write_text(path.read_text().replace("what='kill'", f"what='kill', rank={faulty}"))
    env = dict(RESIST_MM_CIFAR10=images, ON_WORKER_LOSS='continue')
    run = start_tool('dist_train.sh', path, 3, '--work-dir', tmp_path / 'run', **env)
    assert run.returncode == 0, run.stdout[-8000:]
    assert f'Round 5 goes on without worker {faulty} (numbered' in run.stdout
    assert rounds_of(run.stdout) == ([*range(8)] if faulty else [*range(5), 5, 6, 7])
    assert 'resuming' not in run.stdout
    assert {name for name in os.listdir(tmp_path / 'run') if name.endswith('.pth')} == {
        f'iter_{i}.pth' for i in (10, 20, 30, 40)
    }


def test_a_worker_that_does_not_come_is_named(images: str, tmp_path: Path):
    path = config(tmp_path, 'hang')
    env = dict(RESIST_MM_CIFAR10=images, DIST_TIMEOUT='4')
    run = start_tool('dist_train.sh', path, 2, '--work-dir', tmp_path / 'run', **env)
    assert run.returncode == 1
    line = last_line(run.stdout)
    assert line.startswith('Failed: worker 0 on '), run.stdout[-4000:]
    assert 'round 5, exchange: worker 1 is missing, last seen: round 5, training.' in line
    assert '4 s (env_cfg.dist_cfg.timeout)' in line


def test_a_machine_that_is_lost_takes_its_workers_along_and_the_others_go_on(images: str, tmp_path: Path):
    """Two launchers with a worker each; the second one is killed in the 27th iteration."""
    path = config(tmp_path, 'kill launcher')
    env = dict(
        RESIST_MM_CIFAR10=images,
        NNODES='1:2',
        PORT=str(free_port()),
        RDZV_CONF='last_call_timeout=4,keep_alive_interval=1,keep_alive_max_attempt=3',
    )
    command = ('dist_train.sh', path, 1, '--work-dir', tmp_path / 'run')
    with ThreadPoolExecutor() as pool:
        stays = pool.submit(start_tool, *command, FAULTY='0', **env)
        time.sleep(1)
        lost = pool.submit(start_tool, *command, FAULTY='1', **env).result()
        assert lost.returncode == -signal.SIGKILL
        worker = int((tmp_path / 'mark').read_text())
        assert not is_running(worker), 'an orphan'
        run = stays.result()
    assert run.returncode == 0, run.stdout[-8000:]
    before, _, after = run.stdout.partition('Restarted: resuming from')
    assert rounds_of(before) == [0, 1, 2, 3, 4]
    assert re.findall(r'Round (\d+): depth (\d+) of 4 blocks', after) == [(str(i), '4') for i in range(4, 8)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return found.getsockname()[1]


def is_running(pid: int) -> bool:
    """Whether a process is there within two seconds from now, and not only its exit status."""
    until = time.monotonic() + 2
    status = Path(f'/proc/{pid}/status')
    while time.monotonic() < until:
        try:
            if 'State:\tZ' in status.read_text():
                return False
        except (FileNotFoundError, ProcessLookupError):
            return False
        time.sleep(0.1)
    return True
