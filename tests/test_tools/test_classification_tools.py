"""Ensemble and input benchmark, as a user runs them, on generated images."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from resist_mm.registry import MODELS
from tests import generated_sets
from tests.test_tools.commands import ROOT, run_tool, start_tool

MEMBER = 'configs/cifar/preact-resnet36-shallow4_1xb128-40e_cifar10.py'
RESIST = 'configs/cifar/preact-resnet101_resist_4xb128-160e_cifar10.py'
TINY = ['model.backbone.stage_blocks=(1,1,2,1)', 'model.backbone.base_channels=4']


@pytest.fixture(scope='module')
def folders(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp('cifar10')
    classes = tuple('abcdefghij')
    return str(generated_sets.make_image_folders(root, ('train', 'test'), classes, per_class=4))


def test_an_ensemble_is_tested_and_priced(folders: str, tmp_path: Path):
    cfg = Config.fromfile(ROOT / MEMBER).model
    cfg.backbone.update(stage_blocks=(1, 1, 2, 1), base_channels=4)
    for seed in range(2):
        torch.manual_seed(seed)
        torch.save(dict(state_dict=MODELS.build(cfg).state_dict()), tmp_path / f'{seed}.pth')
    checkpoints = sorted(tmp_path.glob('*.pth'))
    args = (MEMBER, *checkpoints, '--work-dir', tmp_path / 'ensemble', '--batch-size', 4, '--whole', RESIST)
    out = run_tool('test_ensemble.py', *args, '--cfg-options', *TINY, RESIST_MM_CIFAR10=folders)
    costs = {
        label: [float(number) for number in numbers.split()]
        for label, numbers in re.findall(
            r'^(one member|ensemble of 2|whole network) +([\d. ]+)$', out, re.MULTILINE
        )
    }
    for i in range(2):  # parameters and multiply-adds; time is left to the reader
        assert costs['ensemble of 2'][i] == pytest.approx(2 * costs['one member'][i], abs=2e-3)
    assert costs['whole network'][0] == pytest.approx(41.351, abs=1e-3)
    assert costs['whole network'][1] > 1
    assert re.search(r'^accuracy/top1: ', out, re.MULTILINE)


def test_a_missing_checkpoint():
    result = start_tool('test_ensemble.py', MEMBER, 'nowhere.pth')
    assert result.returncode == 2
    assert 'there is no checkpoint nowhere.pth' in result.stdout


def test_a_missing_set_is_one_error_that_says_how_to_get_it(tmp_path: Path):
    result = start_tool(
        'dist_train.sh', RESIST, 2, '--work-dir', tmp_path / 'run', RESIST_MM_CIFAR10=str(tmp_path / 'nowhere')
    )
    assert result.returncode != 0
    said, last = result.stdout.rsplit('Failed: worker 0 on ', 1)
    assert said.count('\nFileNotFoundError: train_dataloader.dataset: CIFAR10: there is no file') == 1
    assert ': FileNotFoundError: train_dataloader.dataset: CIFAR10: there is no file' in last
    assert '\n' not in last.strip()
    assert 'cifar-10-python.tar.gz' in result.stdout
    assert 'tools/train.py", line' not in result.stdout, 'a traceback'
    assert not (tmp_path / 'run').exists()


def test_input_is_measured_all_ways(folders: str):
    args = ('--seconds', 0.3, '--repeats', 1, '--cfg-options', 'train_dataloader.batch_size=8')
    out = run_tool('analysis_tools/benchmark_input.py', RESIST, *args, RESIST_MM_CIFAR10=folders)
    memory, *singles = (float(n.replace(',', '')) for n in re.findall(r' ([\d,]+) images/s', out))
    assert len(singles) == 2 and min(memory, *singles) > 0
    (ratios,) = re.findall(r'ratios ([\d., ]+), device', out)
    expected = [memory / single for single in singles]
    assert [float(ratio) for ratio in ratios.split(', ')] == pytest.approx(expected, abs=0.1, rel=0.01)
