"""From a folder in VOC's or COCO's layout to a detector, its mAP by class and pictures: docs/own_data.md."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ET
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from resist_mm.convert import read_config
from resist_mm.datasets import make_shapes_voc
from resist_mm.datasets.shapes_voc import CLASSES
from tests.test_tools.commands import ROOT, run_tool
from tests.workers import run_workers

pytest.importorskip('mmdet')
DOCS = ROOT / 'docs'
LAYOUTS = ('voc', 'coco')
SIZE = 64
TINY: dict[str, object] = dict(max_epochs=1, batch_size=2, image_size=(SIZE, SIZE))
for part in ('train', 'val', 'test'):
    TINY |= {f'{part}_dataloader.num_workers': 0, f'{part}_dataloader.persistent_workers': False}
TINY |= {'train_cfg.val_interval': 1, 'default_hooks.checkpoint.interval': 1, 'custom_hooks.0.local_iters': 1}
TINY |= {'custom_hooks.0.bn_batches': 1, 'model.backbone.depth': 50, 'model.backbone.base_channels': 4}
TINY |= {'model.backbone.init_cfg': None, 'custom_hooks.0.min_blocks': 2}
TINY |= {'default_hooks.visualization.score_thr': 0.0}
NETWORKS = {
    'custom_yolov2': {'model.bbox_head.in_channels': 128, 'model.test_cfg.score_thr': 0.0},
    'custom_faster-rcnn': {'model.neck.in_channels': [16, 32, 64, 128], 'model.backbone.frozen_stages': -1},
}


def python_blocks(page: str) -> list[str]:
    return re.findall(r'```python\n(.*?)```', (DOCS / page).read_text(), re.DOTALL)


def to_coco(voc: Path, root: Path) -> Path:
    """The set in COCO's layout."""
    (root / 'annotations').mkdir(parents=True)
    for split, name in dict(trainval='train', test='val').items():
        (root / name).mkdir()
        images, boxes = [], []
        for number, image_id in enumerate((voc / f'ImageSets/Main/{split}.txt').read_text().split()):
            shutil.copy(voc / f'JPEGImages/{image_id}.jpg', root / name)
            tree = ET.parse(voc / f'Annotations/{image_id}.xml').getroot()
            width, height = (int(tree.findtext(f'size/{side}', '')) for side in ('width', 'height'))
            images.append(dict(id=number, file_name=f'{image_id}.jpg', width=width, height=height))
            for shape in tree.iter('object'):
                left, top, right, bottom = (
                    int(shape.findtext(f'bndbox/{edge}', '')) for edge in ('xmin', 'ymin', 'xmax', 'ymax')
                )
                box = [left - 1, top - 1, right - left + 1, bottom - top + 1]
                category = CLASSES.index(shape.findtext('name', '')) + 1
                one = dict(image_id=number, category_id=category, bbox=box, area=box[2] * box[3], iscrowd=0)
                boxes.append(dict(one, id=len(boxes) + 1))
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=boxes, categories=categories)
        (root / 'annotations' / f'{name}.json').write_text(json.dumps(content))
    return root


def make_sets(folder: Path, train: int, test: int, size: int) -> dict[str, Path]:
    voc = make_shapes_voc(folder, train=train, test=test, size=size)
    return dict(voc=voc, coco=to_coco(voc, folder / 'coco'))


@pytest.fixture(scope='module')
def sets(tmp_path_factory) -> dict[str, Path]:
    return make_sets(tmp_path_factory.mktemp('sets'), train=8, test=4, size=SIZE)


def ten_lines(layout: str, data_root: Path, network: str, **settings: object) -> str:
    """The first config of the page, with other values in the same lines."""
    text = python_blocks('own_data.md')[0].replace('custom_voc', f'custom_{layout}')
    text = text.replace('custom_yolov2.py', f'{network}.py')
    for key, value in dict(data_root=f'{data_root}/', classes=CLASSES, **settings).items():
        text, count = re.subn(rf'^{key} = .*$', f'{key} = {value!r}', text, flags=re.MULTILINE)
        assert count == 1
    assert len([line for line in text.splitlines() if not line.startswith('#')]) <= 10
    return text


@pytest.mark.parametrize(('network', 'images'), [('custom_yolov2', '1,600'), ('custom_yolov2-small', '1,000')])
def test_the_first_phase_of_yolov2_is_as_long_as_the_page_says(network: str, images: str, tmp_path: Path):
    (tmp_path / 'fruit.py').write_text(ten_lines('voc', tmp_path, network))
    head = read_config(tmp_path / 'fruit.py').model.bbox_head
    assert f'{head.prior_images:,}' == images and images in (DOCS / 'own_data.md').read_text()


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('layout', LAYOUTS)
def test_from_a_folder_to_pictures(layout: str, network: str, sets: dict[str, Path], tmp_path: Path):
    """The three commands with two workers on tiny images, then inference in three lines."""
    (tmp_path / 'fruit.py').write_text(ten_lines(layout, sets[layout], network))
    shutil.copytree(sets['voc'] / 'JPEGImages', tmp_path / 'images', ignore=shutil.ignore_patterns('trainval*'))
    options = [f'{key}={value}' for key, value in (TINY | NETWORKS[network]).items()]
    found = run_workers(_three_commands, 2, str(tmp_path), options)[0]

    metrics = json.loads(found['scalars'][-1])
    names = ('pascal_voc/mAP', 'pascal_voc/AP50') if layout == 'voc' else ('coco/bbox_mAP', 'coco/star_precision')
    assert set(names) <= set(metrics)
    if layout == 'voc':
        assert all(re.search(rf'\| {name} +\| \d', found['log']) for name in CLASSES), 'no table of classes'
    images = sorted(path.name for path in (tmp_path / 'images').iterdir())
    assert len(images) == 4
    assert sorted(path.name for path in (tmp_path / 'pictures').iterdir()) == images, 'those of both workers'
    with Image.open(tmp_path / 'pictures' / images[0]) as drawn:
        assert drawn.size == (2 * SIZE, SIZE), 'annotations beside detections'

    for name, prediction in zip(images, found['predictions'], strict=True):
        assert json.loads((tmp_path / 'found/preds' / name).with_suffix('.json').read_text()) == prediction
        assert prediction['classes'] == [CLASSES[label] for label in prediction['labels']]
        assert all(0 <= side <= SIZE for box in prediction['bboxes'] for side in box)
        assert np.asarray(Image.open(tmp_path / 'found/vis' / name)).shape == (SIZE, SIZE, 3)
    assert any(prediction['labels'] for prediction in found['predictions'])
    without_names = [{key: one[key] for key in one if key != 'classes'} for one in found['predictions']]
    assert sorted(map(str, found['by_mmdet'])) == sorted(map(str, without_names)), 'it does not sort the files'


def _three_commands(folder: str, options: list[str]) -> dict:
    os.chdir(folder)
    checkpoint = 'work_dirs/fruit/epoch_1.pth'
    with pytest.MonkeyPatch.context() as monkeypatch:
        # formatting the whole config takes longer than all else together
        plain = property(lambda cfg: '\n'.join(f'{key} = {value!r}' for key, value in cfg._cfg_dict.items()))
        monkeypatch.setattr(Config, 'pretty_text', plain)
        # the workers are connected already, and stay so
        monkeypatch.setattr('resist_mm.launch.process_group.init_dist', lambda *args, **kwargs: None)
        more = ('--launcher', 'pytorch', '--cfg-options', *options)
        _command('train.py', 'fruit.py', *more)
        _command('test.py', 'fruit.py', checkpoint, '--show-dir', 'pictures', *more)
        if torch.distributed.get_rank() != 0:
            return {}
        _command('demo.py', 'images', 'fruit.py', checkpoint, '--out-dir', 'found', '--cfg-options', *options)
    lines = [block for block in python_blocks('inference.md') if ' DetInferencer' in block]
    results = []
    for block in lines:
        names: dict = {}
        exec(block.replace('epoch_50', 'epoch_1').replace("out_dir='found'", "out_dir='again'"), names)
        results.append(names['found']['predictions'])
    ours, by_mmdet = results
    shown = [json.loads(path.read_text()) for path in sorted(Path('again/preds').iterdir())]
    assert shown == ours
    logs = sorted(Path('work_dirs/fruit').glob('2*/*.log'))
    scalars = [path.read_text() for path in sorted(Path('work_dirs/fruit').glob('2*/2*.json'))]
    return dict(log=logs[-1].read_text(), scalars=scalars, predictions=ours, by_mmdet=by_mmdet)


def _command(name: str, *words: str) -> None:
    """Run a script of tools/ in this process."""
    spec = spec_from_file_location(f'tools_{Path(name).stem}', ROOT / 'tools' / name)
    assert spec is not None and spec.loader is not None
    module: ModuleType = module_from_spec(spec)
    spec.loader.exec_module(module)
    with patch.object(sys, 'argv', [name, *words]), patch.object(module, 'finish_distributed', create=True):
        module.main()


def test_other_detectors_of_mmdet_take_the_same_data(sets: dict[str, Path], tmp_path: Path):
    block = python_blocks('own_data.md')[1].replace("'data/fruit/'", repr(str(sets['coco'])))
    (tmp_path / 'retina.py').write_text(block)
    cfg = read_config(tmp_path / 'retina.py')
    assert cfg.model.bbox_head.num_classes == len(cfg.train_dataloader.dataset.metainfo.classes) == 3
    assert cfg.val_evaluator.ann_file == f'{sets["coco"]}/annotations/val.json'


def test_the_priors_of_the_page(tmp_path: Path):
    """The output that the page shows, of its config and its generated set, and nothing else."""
    data_root = make_shapes_voc(tmp_path, train=400, test=1, size=128)
    blocks = re.findall(r'```\w*\n(.*?)```', (DOCS / 'own_data.md').read_text(), re.DOTALL)
    (config,) = (block for block in blocks if block.startswith('# shapes.py'))
    (shown,) = (block for block in blocks if 'mean best IoU' in block)
    (tmp_path / 'shapes.py').write_text(config.replace("'data/Shapes/'", f"'{data_root}/'"))
    out = run_tool('analysis_tools/optimize_anchors.py', tmp_path / 'shapes.py', '--num', 5)
    assert out.strip() == shown.strip()


@pytest.mark.slow
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_small_detector_learns(layout: str, tmp_path: Path):
    """The three commands as processes, at full length: a mAP at an IoU of 0.5 of about 0.7."""
    data_root = make_sets(tmp_path, train=400, test=100, size=128)[layout]
    config = tmp_path / 'fruit.py'
    lines = ten_lines(layout, data_root, 'custom_yolov2-small', image_size=(128, 128), batch_size=10)
    config.write_text(lines)
    work_dir = tmp_path / 'run'
    run_tool('dist_train.sh', config, 2, '--work-dir', work_dir)
    checkpoint = work_dir / 'epoch_40.pth'
    log = run_tool(
        'dist_test.sh', config, checkpoint, 2, '--work-dir', work_dir, '--show-dir', tmp_path / 'pictures'
    )
    key = 'pascal_voc/mAP' if layout == 'voc' else 'coco/bbox_mAP_50'
    assert float(re.findall(rf'{key}: ([\d.]+)', log)[-1]) > 0.5
    assert len(list((tmp_path / 'pictures').iterdir())) == 100
