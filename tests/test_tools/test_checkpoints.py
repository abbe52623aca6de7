"""What the commands say about checkpoints that they do not use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests import generated_sets
from tests.test_checkpoint.test_reading import RunsCode
from tests.test_tools.commands import start_tool

CONFIG = 'configs/cifar/preact-resnet36-shallow4_1xb128-40e_cifar10.py'
OPTIONS = ['--cfg-options', 'model.backbone.stage_blocks=(1,1,2,1)', 'model.backbone.base_channels=4']


@pytest.fixture(scope='module')
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp('cifar10')
    return str(generated_sets.make_image_folders(root, ('train', 'test'), tuple('abcdefghij'), per_class=4))


def test_nothing_to_resume_is_an_error_not_a_fresh_start(images: str, tmp_path: Path):
    result = start_tool('train.py', CONFIG, '--work-dir', tmp_path, '--resume', *OPTIONS, RESIST_MM_CIFAR10=images)
    assert result.returncode == 1
    assert f'there is no checkpoint to resume from in {tmp_path}' in result.stdout
    assert 'Traceback' not in result.stdout


def test_a_checkpoint_that_runs_code_is_refused(images: str, tmp_path: Path):
    file, made = tmp_path / 'a.pth', tmp_path / 'made'
    torch.save(dict(state_dict={}, extra=RunsCode(made)), file)
    result = start_tool('test.py', CONFIG, file, '--work-dir', tmp_path, *OPTIONS, RESIST_MM_CIFAR10=images)
    assert result.returncode == 1
    assert f'{file} can run code' in result.stdout and '--trust-checkpoint' in result.stdout
    assert 'Traceback' not in result.stdout
    assert not made.exists()
