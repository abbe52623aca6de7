"""SafeCheckpointHook: what a run begins with."""

from __future__ import annotations

import fcntl
import os
from typing import Any

import pytest
import torch

from resist_mm.checkpoint import BrokenCheckpoint, CheckpointError, WorkDirInUse
from tests.toy import toy_runner
from tests.workers import run_workers

from .saving import Linear, names, saving_runner


def test_a_damaged_checkpoint_is_passed_over_and_nothing_to_resume_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match=r'no checkpoint to resume from.*leave out --resume'):
        saving_runner(tmp_path, 2, resume=True).train()
    saving_runner(tmp_path, 3, max_keep_ckpts=-1).train()
    content = bytearray((tmp_path / 'iter_3.pth').read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / 'iter_3.pth').write_bytes(content)
    with pytest.raises(BrokenCheckpoint, match=r'iter_3\.pth is damaged'):
        runner = saving_runner(tmp_path, 4, resume=True)
        runner._load_from = str(tmp_path / 'iter_3.pth')
        runner.train()
    runner = saving_runner(tmp_path, 4, resume=True)
    warnings: list[str] = []
    runner.logger.warning = warnings.append  # type: ignore[assignment]
    runner.train()
    assert runner._load_from == str(tmp_path / 'iter_2.pth')
    assert [line for line in warnings if 'Not resumed from' in line and 'iter_3.pth is damaged' in line]
    for path in tmp_path.glob('iter_*.pth'):
        os.truncate(path, 100)
    with pytest.raises(CheckpointError, match=r'cannot be used:\n- .*iter_4\.pth is incomplete'):
        saving_runner(tmp_path, 5, resume=True).train()


def test_a_work_dir_in_use_is_left_alone(tmp_path):
    with open(tmp_path / 'in_use.lock', 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(WorkDirInUse, match=r'is in use by another process.*--work-dir'):
            saving_runner(tmp_path, 1).train()
    assert not names(tmp_path)


def test_a_checkpoint_of_an_older_version_is_resumed(tmp_path):
    saving_runner(tmp_path, 2, type='CheckpointHook').train()
    assert 'model_sha256' not in torch.load(tmp_path / 'iter_2.pth', weights_only=False)['meta']
    runner = saving_runner(tmp_path, 3, resume=True)
    runner.train()
    assert runner._load_from == str(tmp_path / 'iter_2.pth') and names(tmp_path) == ['iter_3.pth']


def test_load_from_is_verified(tmp_path):
    saving_runner(tmp_path, 1).train()
    checkpoint = torch.load(tmp_path / 'iter_1.pth', weights_only=False)
    checkpoint['state_dict']['linear.weight'][0, 0] += 1
    torch.save(checkpoint, tmp_path / 'changed.pth')
    other = tmp_path / 'other'
    other.mkdir()
    runner = saving_runner(other, 1)
    runner._load_from = str(tmp_path / 'changed.pth')
    with pytest.raises(BrokenCheckpoint, match=r'changed\.pth is damaged'):
        runner.train()


def _two_workers(work_dir: str) -> list[Any]:
    hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=3, bn='average')]
    options = dict(
        model=Linear(),
        default_hooks=dict(
            logger=None, checkpoint=dict(type='resist_mm.SafeCheckpointHook', interval=1, max_keep_ckpts=1)
        ),
        experiment_name='two',
    )
    found: list[Any] = []
    try:
        toy_runner(work_dir, hooks, resume=True, **options).train()
    except CheckpointError as error:
        found.append(str(error))
    options.update(model=Linear(), experiment_name='again', train_cfg=dict(by_epoch=True, max_epochs=1))
    toy_runner(work_dir, hooks, **options).train()
    options.update(model=Linear(), experiment_name='resumed', train_cfg=dict(by_epoch=True, max_epochs=2))
    runner = toy_runner(work_dir, hooks, resume=True, **options)
    runner.train()
    return [*found, runner._load_from, runner.epoch]


def test_two_workers_resume_from_the_same_one_and_fail_alike(tmp_path):
    first, second = run_workers(_two_workers, 2, str(tmp_path))
    assert first == second
    assert 'no checkpoint to resume from' in first[0]
    assert first[1:] == [str(tmp_path / 'epoch_1.pth'), 2]
    assert names(tmp_path) == ['epoch_2.pth']
