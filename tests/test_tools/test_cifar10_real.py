"""Four CPU workers under ResIST on real CIFAR-10 images, as a user starts them."""

from __future__ import annotations

import re

import pytest
import torch

from tests.test_tools.commands import rounds_of, run_tool

CONFIG = 'configs/cifar/small/preact-resnet-small_resist_4xb32-1200i_cifar10.py'


@pytest.mark.real_data
def test_four_workers_learn_from_real_images(real_data, tmp_path):
    log = run_tool(
        'dist_train.sh',
        CONFIG,
        4,
        '--work-dir',
        tmp_path,
        '--cfg-options',
        'model.backbone.base_channels=8',
        'model.backbone.stage_blocks=(1,1,5,1)',
        'train_dataloader.dataset.max_images=1000',
        'val_dataloader.dataset.max_images=500',
        'test_dataloader.dataset.max_images=500',
        'train_cfg.max_iters=60',
        'train_cfg.val_interval=60',
        'custom_hooks.0.local_iters=20',
        'param_scheduler.0.end=10',
        'randomness.seed=0',
        RESIST_MM_CIFAR10=str(real_data / 'cifar10_jpeg'),
    )
    assert rounds_of(log) == [0, 1, 2]
    assert 'train sub-ResNets with [1, 1, 1, 1] of 4 partitioned blocks' in log
    (top1,) = re.findall(r'Iter\(val\).*accuracy/top1: ([\d.]+)', log)
    assert float(top1) > 18, 'chance is 10'
    state = torch.load(next(tmp_path.glob('best_accuracy_top1_*.pth')), weights_only=False)['state_dict']
    assert state['backbone.layer3.scale'] == 0.25
