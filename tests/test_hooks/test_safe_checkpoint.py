"""SafeCheckpointHook: order, errors, in the background, other file systems."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.fileio import BaseStorageBackend, LocalBackend
from mmengine.fileio.backends import register_backend
from mmengine.hooks import Hook

from resist_mm.checkpoint import CheckpointError, model_digest, read_checkpoint
from resist_mm.hooks import safe_checkpoint

from .saving import names, saving_runner

WRITE = 'resist_mm.hooks.safe_checkpoint.write_checkpoint'


@pytest.mark.parametrize('background', [False, True])
def test_a_run_leaves_the_last_and_the_best_one_behind(tmp_path, background):
    saving_runner(tmp_path, 3, best=True, background=background).train()
    assert names(tmp_path) == ['best_score_iter_3.pth', 'iter_3.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_3.pth')
    checkpoint = read_checkpoint(tmp_path / 'iter_3.pth')
    assert checkpoint['meta']['model_sha256'] == model_digest(checkpoint)
    assert checkpoint['message_hub']['runtime_info']['best_ckpt'] == str(tmp_path / 'best_score_iter_3.pth')
    best = read_checkpoint(tmp_path / 'best_score_iter_3.pth')
    assert 'optimizer' not in best
    assert torch.equal(best['state_dict']['linear.weight'], checkpoint['state_dict']['linear.weight'])


@pytest.mark.parametrize('background', [False, True])
def test_what_is_saved_is_what_mmengine_saves(tmp_path, background):
    found = []
    for kind in ('CheckpointHook', 'resist_mm.SafeCheckpointHook'):
        folder = tmp_path / kind
        folder.mkdir()
        options = dict(background=background) if kind != 'CheckpointHook' else {}
        saving_runner(folder, 3, type=kind, max_keep_ckpts=2, **options).train()
        found.append((names(folder), [torch.load(folder / f'iter_{i}.pth', weights_only=False) for i in (2, 3)]))
    (mmengines_names, mmengines), (our_names, ours) = found
    assert mmengines_names == our_names
    for theirs, of_ours in zip(mmengines, ours, strict=True):
        assert list(theirs) == list(of_ours)
        assert set(of_ours['meta']) - set(theirs['meta']) == {'model_sha256'}
        for key, value in theirs['state_dict'].items():
            assert torch.equal(value, of_ours['state_dict'][key])
        assert theirs['optimizer']['param_groups'] == of_ours['optimizer']['param_groups']
        for name, state in theirs['optimizer']['state'].items():
            assert torch.equal(state['momentum_buffer'], of_ours['optimizer']['state'][name]['momentum_buffer'])


@pytest.mark.parametrize('background', [False, True])
@pytest.mark.parametrize('best', [False, True])
def test_a_full_disk_ends_training_and_leaves_what_was_there(tmp_path, monkeypatch, background, best):
    real, calls = safe_checkpoint.write_checkpoint, []

    def write(checkpoint: dict, path: str) -> int:
        calls.append(path)
        if 'iter_3' in path:
            raise OSError(errno.ENOSPC, 'No space left on device')
        return real(checkpoint, path)

    monkeypatch.setattr(WRITE, write)
    with pytest.raises(OSError, match='No space left'):
        saving_runner(tmp_path, 9, best=best, background=background).train()
    assert names(tmp_path) == ['best_score_iter_2.pth', 'iter_2.pth'] if best else ['iter_2.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == str(tmp_path / 'iter_2.pth')
    monkeypatch.setattr(WRITE, real)
    runner = saving_runner(tmp_path, 4, best=best, resume=True)
    runner.train()
    assert names(tmp_path) == (['best_score_iter_4.pth'] if best else []) + ['iter_4.pth']


def test_training_goes_on_while_at_most_one_copy_is_written(tmp_path, monkeypatch):
    real, release = safe_checkpoint.write_checkpoint, threading.Event()
    log: list[str] = []

    def write(checkpoint: dict, path: str) -> int:
        log.append(f'begin {Path(path).name}')
        assert release.wait(60)
        size = real(checkpoint, path)
        log.append(f'end {Path(path).name}')
        return size

    class Watch(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            log.append(f'train {runner.iter + 1}')
            if runner.iter == 1:  # the first one is still being written
                assert not any(line.startswith('end') for line in log)
                weight = runner.model.linear.weight.detach().clone()
                self.first = weight
                release.set()

    monkeypatch.setattr(WRITE, write)
    runner = saving_runner(tmp_path, 3, background=True, max_keep_ckpts=-1)
    watch = Watch()
    runner.register_hook(watch)
    runner.train()
    writing = [line for line in log if not line.startswith('train')]
    assert writing == [f'{what} iter_{i}.pth' for i in (1, 2, 3) for what in ('begin', 'end')], 'two at once'
    assert log.index('train 2') < log.index('end iter_1.pth')
    assert torch.equal(read_checkpoint(tmp_path / 'iter_1.pth')['state_dict']['linear.weight'], watch.first)
    assert not torch.equal(runner.model.linear.weight, watch.first)


def _fail_while_writing(work_dir: Path) -> None:
    real = safe_checkpoint.write_checkpoint

    def slow(checkpoint: dict, path: str) -> int:
        threading.Event().wait(1)
        return real(checkpoint, path)

    class Fail(Hook):
        def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
            if runner.iter == 1:
                raise RuntimeError('of the model')

    safe_checkpoint.write_checkpoint = slow
    runner = saving_runner(work_dir, 3, background=True)
    runner.register_hook(Fail())
    runner.train()


def test_a_process_that_fails_waits_for_the_checkpoint(tmp_path):
    process = multiprocessing.get_context('forkserver').Process(target=_fail_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 1
    assert names(tmp_path) == ['iter_1.pth']
    assert read_checkpoint(tmp_path / (tmp_path / 'last_checkpoint').read_text())['meta']['iter'] == 1


def test_what_a_killed_run_left_is_removed_and_checkpoints_are_counted_on(tmp_path):
    saving_runner(tmp_path, 2).train()
    (tmp_path / 'iter_3.pth.99.tmp').write_bytes(b'PK')
    # killed after writing the second checkpoint, before deleting the first
    (tmp_path / 'iter_1.pth').write_bytes((tmp_path / 'iter_2.pth').read_bytes())
    os.utime(tmp_path / 'iter_1.pth', (1, 1))
    saving_runner(tmp_path, 3, resume=True).train()
    assert names(tmp_path) == ['iter_3.pth']


def test_published_checkpoints(tmp_path):
    saving_runner(tmp_path, 1, published_keys=['meta', 'state_dict'], background=True).train()
    (published,) = tmp_path.glob('iter_1-*.pth')
    assert set(read_checkpoint(published)) == {'meta', 'state_dict'}
    assert len(names(tmp_path)) == 2


class Elsewhere(BaseStorageBackend):
    """Not a local folder, as far as the hook knows."""

    get, get_text, put = LocalBackend.get, LocalBackend.get_text, LocalBackend.put
    exists, isfile, isdir, remove, join_path = (
        LocalBackend.exists,
        LocalBackend.isfile,
        LocalBackend.isdir,
        LocalBackend.remove,
        LocalBackend.join_path,
    )


register_backend('elsewhere', Elsewhere, force=True)


def test_other_file_systems_are_written_by_mmengine_and_in_the_same_order(tmp_path):
    saving_runner(tmp_path, 2, backend_args=dict(backend='elsewhere')).train()
    assert names(tmp_path) == ['iter_2.pth']
    assert read_checkpoint(tmp_path / 'iter_2.pth')['meta']['iter'] == 2


def test_what_needs_trust_is_named_when_it_is_saved(tmp_path):
    runner = saving_runner(tmp_path, 1)
    warnings: list[str] = []
    runner.logger.warning = warnings.append  # type: ignore[assignment]
    runner.message_hub.update_info('path', tmp_path)
    runner.train()
    (warning,) = [line for line in warnings if '--trust-checkpoint' in line]
    assert 'pathlib' in warning
    with pytest.raises(CheckpointError, match='--trust-checkpoint'):
        saving_runner(tmp_path, 2, resume=True).train()


def test_a_runner_that_saves_in_another_way_is_refused(tmp_path):
    runner = saving_runner(tmp_path, 1)
    runner.save_checkpoint = lambda *args, **kwargs: None
    with pytest.raises(RuntimeError, match=r"use type='CheckpointHook'"):
        runner.train()
