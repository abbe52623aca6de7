"""mmdet's RetinaNet, made small, trained by real workers with --resist, and everything that follows without it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from resist_mm.datasets import make_shapes_voc
from tests.test_tools.commands import rounds_of, run_tool, start_tool

pytest.importorskip('mmdet')

# what a user changes for a data set; the name of the base says nothing of resist_mm
CONFIG = """
_base_ = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
model = dict(
    backbone=dict(base_channels=8, init_cfg=None, norm_eval=False, norm_cfg=dict(type='BN')),
    neck=dict(in_channels=[32, 64, 128, 256], out_channels=16),
    bbox_head=dict(num_classes=5, in_channels=16, feat_channels=16),
)
shapes = dict(
    type='VOCDataset',
    _delete_=True,
    data_root='{root}/',
    data_prefix=dict(sub_data_root='Shapes/'),
    metainfo=dict(classes=('circle', 'square', 'triangle', 'star', 'cross')),
)
load = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes, ann_file='Shapes/ImageSets/Main/trainval.txt', pipeline=[*load, dict(type='PackDetInputs')]
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **shapes,
        ann_file='Shapes/ImageSets/Main/test.txt',
        test_mode=True,
        pipeline=[
            load[0],
            dict(type='Resize', scale=(64, 64), keep_ratio=False),
            load[1],
            dict(type='PackDetInputs', meta_keys=keys),
        ],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type='VOCMetric', metric='mAP')
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=2)
custom_hooks = [dict(type='NumClassCheckHook')]
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp('converted')
    make_shapes_voc(root, train=8, test=2, size=64)
    file = root / 'retina.py'
    file.write_text(CONFIG.replace('{root}', str(root)))
    return file


def test_train_resume_test_and_infer(config: Path, tmp_path: Path):
    work_dir = tmp_path / 'run'
    asked = ('--work-dir', work_dir, '--resist', 'stages=backbone.layer3', 'local_iters=2')
    log = run_tool('dist_train.sh', config, 2, *asked)
    assert rounds_of(log) == [0, 1]
    assert 'ResIST: 2 workers train sub-ResNets with [3, 2] of 5 partitioned blocks' in log
    assert "Changed config: model.backbone: type='ResNet' became type='resist_mm.Partitioned'" in log
    assert log.count('Changed config: stages: backbone.layer3') == 1, 'each change is said once'
    whole = work_dir / 'retina.py'
    assert {'ResISTHook', 'Partitioned', 'LocalModel'} <= words_of(whole)
    before = assigned(whole)

    # the source config again, with the same flag; then the whole config, without
    log = run_tool('dist_train.sh', config, 2, '--resume', *asked, '--cfg-options', 'train_cfg.max_epochs=3')
    assert rounds_of(log) == [2]
    after = assigned(whole)
    assert {key for key in before if before[key] != after[key]} == {'resume', 'train_cfg'}
    log = run_tool('dist_train.sh', whole, 2, '--resume', '--cfg-options', 'train_cfg.max_epochs=4')
    assert rounds_of(log) == [3]

    checkpoint = work_dir / 'epoch_4.pth'
    assert 'pascal_voc/mAP' in run_tool('test.py', whole, checkpoint, '--work-dir', tmp_path / 'test')
    infer(whole, checkpoint, config.parent / 'Shapes/JPEGImages/test_00000.jpg')


def infer(config: Path, checkpoint: Path, image: Path) -> None:
    from mmdet.apis import DetInferencer, inference_detector, init_detector

    detector = init_detector(str(config), str(checkpoint), device='cpu')
    assert detector.backbone.layer3.scale == 0.5
    detector.test_cfg.score_thr = detector.bbox_head.test_cfg.score_thr = 0
    scores = inference_detector(detector, str(image)).pred_instances.scores
    assert len(scores) > 0

    inferencer = DetInferencer(str(config), str(checkpoint), device='cpu')
    assert inferencer.model.backbone.layer3.scale == 0.5
    inferencer.model.bbox_head.test_cfg.score_thr = 0
    found = inferencer(str(image), no_save_vis=True)['predictions'][0]['scores']
    assert found == pytest.approx(scores.tolist())


@pytest.mark.parametrize(
    ('asked', 'rounds', 'wrapper'),
    [(['--local-sgd', 'local_iters=2'], 1, 'LocalModel'), (['--ddp'], 0, 'MMDistributedDataParallel')],
)
def test_baselines(config: Path, tmp_path: Path, asked: list[str], rounds: int, wrapper: str):
    shorter = ('--cfg-options', 'train_cfg.max_epochs=1')
    log = run_tool('dist_train.sh', config, 2, '--work-dir', tmp_path, *shorter, *asked)
    assert log.count('2 iterations in') == rounds
    assert 'Changed config: model_wrapper_cfg: ' in log
    assert wrapper in words_of(tmp_path / 'retina.py')
    assert (tmp_path / 'epoch_1.pth').is_file()


@pytest.mark.parametrize(
    ('words', 'workers', 'message'),
    [
        (
            ['mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', '--resist'],
            '2',
            r'train_dataloader.dataset.ann_file',
        ),
        (
            ['mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', '--resist', 'min_block=2'],
            '2',
            "no option 'min_block'",
        ),
        (['mmdet::ssd/ssd300_coco.py', '--resist'], '2', 'ValueError: SSDVGG has no chain of residual blocks'),
    ],
)
def test_what_the_user_can_fix_is_one_line(words: list[str], workers: str, message: str):
    result = start_tool('train.py', *words, WORLD_SIZE=workers)
    assert result.returncode == 1
    assert message in result.stdout
    assert 'Traceback' not in result.stdout


def words_of(file: Path) -> set[str]:
    """The last parts of all strings in a config."""
    nodes = ast.walk(ast.parse(file.read_text()))
    return {n.value.split('.')[-1] for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str)}


def assigned(file: Path) -> dict[str, str]:
    """The settings of a config, as they are written."""
    return {
        node.targets[0].id: ast.unparse(node.value)
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
