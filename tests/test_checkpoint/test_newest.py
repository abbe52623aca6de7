"""Which checkpoint a run is resumed from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from resist_mm.checkpoint import UntrustedCheckpoint, newest_whole, write_checkpoint

from .test_reading import RunsCode


def save(path: Path, written_at: int, **more: object) -> None:
    write_checkpoint(dict(meta={}, message_hub={}, state_dict=dict(a=torch.zeros(9)), **more), path)
    os.utime(path, (written_at, written_at))


def name(work_dir: Path, last: Path) -> None:
    (work_dir / 'last_checkpoint').write_text(str(last))


def found_in(work_dir: Path, *folders: Path) -> tuple[str, list[str]]:
    path, passed_over = newest_whole(work_dir, folders)
    return path.name if path else '', passed_over


def test_the_newest_one_that_is_whole(tmp_path):
    for number in (9, 10, 11):
        save(tmp_path / f'epoch_{number}.pth', number)
    save(tmp_path / 'best_accuracy_epoch_12.pth', 12)
    (tmp_path / 'epoch_12.pth.77.tmp').write_bytes(b'PK')
    assert found_in(tmp_path) == ('epoch_11.pth', [])
    name(tmp_path, tmp_path / 'epoch_11.pth')
    os.truncate(tmp_path / 'epoch_11.pth', 300)
    found, passed_over = found_in(tmp_path)
    assert found == 'epoch_10.pth'
    assert len(passed_over) == 1 and 'epoch_11.pth is incomplete' in passed_over[0]
    os.truncate(tmp_path / 'epoch_10.pth', 0)
    found, passed_over = found_in(tmp_path)
    assert found == 'epoch_9.pth' and len(passed_over) == 2


def test_a_run_that_was_killed_before_it_named_its_newest(tmp_path):
    save(tmp_path / 'epoch_1.pth', 100)
    save(tmp_path / 'epoch_2.pth', 101)
    name(tmp_path, tmp_path / 'epoch_1.pth')
    assert found_in(tmp_path) == ('epoch_2.pth', [])


def test_an_earlier_run_in_the_same_folder_is_not_continued(tmp_path):
    save(tmp_path / 'epoch_90.pth', 50)
    save(tmp_path / 'epoch_3.pth', 100)
    name(tmp_path, tmp_path / 'epoch_3.pth')
    assert found_in(tmp_path) == ('epoch_3.pth', [])


def test_a_copied_folder_whose_times_say_nothing(tmp_path):
    save(tmp_path / 'iter_200.pth', 101)
    save(tmp_path / 'iter_300.pth', 100)
    save(tmp_path / 'iter_100.pth', 102)
    name(tmp_path, Path('/nowhere/run') / 'iter_300.pth')
    assert found_in(tmp_path) == ('iter_300.pth', [])


def test_checkpoints_elsewhere_and_with_a_name_of_their_own(tmp_path):
    work_dir, out_dir = tmp_path / 'run', tmp_path / 'out/run'
    work_dir.mkdir()
    save(out_dir / 'epoch_2.pth', 100)
    assert found_in(work_dir, out_dir) == ('epoch_2.pth', [])
    save(out_dir / 'final.pth', 100)
    name(work_dir, out_dir / 'final.pth')
    assert found_in(work_dir) == ('final.pth', [])


def test_none(tmp_path):
    assert found_in(tmp_path) == ('', [])
    torch.save(dict(state_dict={}), tmp_path / 'epoch_3.pth')
    found, passed_over = found_in(tmp_path)
    assert found == '' and passed_over == [f'{tmp_path}/epoch_3.pth holds only weights']


def test_one_that_runs_code_is_not_passed_over_in_silence(tmp_path):
    save(tmp_path / 'epoch_1.pth', 100)
    save(tmp_path / 'epoch_2.pth', 101, extra=RunsCode(tmp_path / 'made'))
    with pytest.raises(UntrustedCheckpoint, match='--trust-checkpoint'):
        newest_whole(tmp_path)
    assert not (tmp_path / 'made').exists()
    assert newest_whole(tmp_path, trust=True)[0] == tmp_path / 'epoch_2.pth'
