"""Detectors on images: what demo.py and DetInferencer say about mistakes; the rest is in test_own_data.py."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from PIL import Image

from tests.test_tools.commands import ROOT

pytest.importorskip('mmdet')

from resist_mm import DetInferencer
from resist_mm.checkpoint import CheckpointError
from resist_mm.registry import MODELS

CONFIG = """
default_scope = 'mmdet'
model = dict(
    type='resist_mm.YOLOV2',
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=dict(type='ResNet', depth=18, base_channels=4, out_indices=(3,), norm_eval=False),
    bbox_head=dict(type='resist_mm.YOLOV2Head', num_classes=2, in_channels=32),
    test_cfg=dict(
        with_loss=False, score_thr=0.0, nms_pre=10, nms=dict(type='nms', iou_threshold=0.45), max_per_img=5
    ),
)
test_dataloader = dict(dataset=dict(type='VOCDataset', metainfo=dict(classes=('a', 'b')), pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(64, 64), keep_ratio=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]))
test_evaluator = dict(type='VOCMetric')
visualizer = dict(type='DetLocalVisualizer')
"""


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config of mmdet's ResNet, its weights, and an image among files that are none."""
    folder = tmp_path_factory.mktemp('run')
    (folder / 'plain.py').write_text(CONFIG)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(folder / 'plain.py').model)
    state = model.state_dict()
    torch.save(dict(state_dict=state, meta=dict(dataset_meta=dict(classes=('a', 'b')))), folder / 'plain.pth')
    torch.save(dict(state_dict=state | {'backbone.layer3.scale': torch.tensor(0.5)}), folder / 'resist.pth')
    pixels = np.random.default_rng(0).integers(256, size=(60, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / 'good.png')
    (folder / 'text.jpg').write_text('no image')
    (folder / 'empty.jpg').write_bytes(b'')
    return folder


def test_files_that_are_no_images_are_named(work_dir: Path):
    inferencer = DetInferencer(work_dir / 'plain.py', work_dir / 'plain.pth', 'cpu', show_progress=False)
    [found] = inferencer(work_dir / 'good.png')['predictions']
    assert found['classes'] and set(found['classes']) <= {'a', 'b'}
    for name in ('text.jpg', 'empty.jpg'):
        with pytest.raises(ValueError, match=f'{name} cannot be read as an image'):
            inferencer([work_dir / 'good.png', work_dir / name])
    with pytest.raises(ValueError, match='batch_size must be at least 1, got 0'):
        inferencer(work_dir / 'good.png', batch_size=0)


def test_a_scale_that_the_model_would_ignore_is_refused(work_dir: Path):
    with pytest.raises(ValueError, match=r'resist\.pth was trained by ResIST: it has backbone\.layer3\.scale'):
        DetInferencer(work_dir / 'plain.py', work_dir / 'resist.pth', 'cpu')
    with_scale = Config.fromfile(work_dir / 'plain.py')
    with_scale.model.backbone.type = 'resist_mm.PartitionableResNet'
    inferencer = DetInferencer(with_scale, work_dir / 'resist.pth', 'cpu')
    assert inferencer.model.backbone.layer3.scale == 0.5


def test_the_test_command_refuses_it_too(work_dir: Path, tmp_path: Path):
    spec = spec_from_file_location('test_command', ROOT / 'tools/test.py')
    assert spec is not None and spec.loader is not None
    command = module_from_spec(spec)
    spec.loader.exec_module(command)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(Config.fromfile(work_dir / 'plain.py').model)
    runner = Runner(model, str(tmp_path), load_from=str(work_dir / 'resist.pth'), experiment_name='refuses')
    runner.register_hook(command.CheckScalesHook())
    with pytest.raises(CheckpointError, match=r'resist\.pth was trained by ResIST'):
        runner.load_or_resume()


@pytest.mark.parametrize('option', ['--batch-size', '--topk'])
def test_the_command_refuses_numbers_below_one(option: str, work_dir: Path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / 'tools'))
    import demo

    args = [work_dir / 'good.png', work_dir / 'plain.py', work_dir / 'plain.pth', option, 0]
    monkeypatch.setattr(sys, 'argv', ['demo.py', *map(str, args)])
    with pytest.raises(SystemExit):
        demo.main()
    assert f'{option} must be at least 1, got 0' in capsys.readouterr().err
