"""mmdet's YOLOX and RTMDet with all hooks of their configs, each of two workers with sub-ResNets of its own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner
from mmengine.utils import import_modules_from_strings

from resist_mm.datasets.shapes_voc import METAINFO, make_shapes_voc
from resist_mm.hooks import ResISTHook
from tests.toy import toy_runner
from tests.workers import run_workers

pytest.importorskip('mmdet')
SIZE = (64, 64)
BN = dict(type='BN', momentum=0.03, eps=0.001)
EMA = dict(type='EMAHook', ema_type='ExpMomentumEMA', momentum=0.1, gamma=5, update_buffers=True, priority=49)
LOAD = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations', with_bbox=True)]
BACKBONE = dict(
    type='resist_mm.PartitionableResNet', depth=50, base_channels=8, out_indices=(1, 2, 3), norm_eval=False
)
TEST = [
    LOAD[0],
    dict(type='Resize', scale=SIZE, keep_ratio=True),
    LOAD[1],
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
YOLOX_PIPELINE = [
    dict(type='Mosaic', img_scale=SIZE, pad_val=114.0),
    dict(type='RandomAffine', scaling_ratio_range=(0.5, 1.5), border=(-32, -32)),
    dict(type='MixUp', img_scale=SIZE, ratio_range=(0.8, 1.6), pad_val=114.0),
    dict(type='Resize', scale=SIZE, keep_ratio=True),
    dict(type='Pad', pad_to_square=True, pad_val=dict(img=(114.0, 114.0, 114.0))),
    dict(type='FilterAnnotations', min_gt_bbox_wh=(1, 1), keep_empty=False),
    dict(type='PackDetInputs'),
]
YOLOX = dict(
    type='YOLOX',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        pad_size_divisor=32,
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(64, 96), size_divisor=32, interval=1)
        ],
    ),
    backbone=BACKBONE,
    neck=dict(type='YOLOXPAFPN', in_channels=[64, 128, 256], out_channels=16, num_csp_blocks=1, norm_cfg=BN),
    bbox_head=dict(
        type='YOLOXHead', num_classes=5, in_channels=16, feat_channels=16, stacked_convs=1, norm_cfg=BN
    ),
    train_cfg=dict(assigner=dict(type='SimOTAAssigner', center_radius=2.5)),
    test_cfg=dict(score_thr=0.01, nms=dict(type='nms', iou_threshold=0.65)),
)
RTMDET = dict(
    type='RTMDet',
    use_syncbn=False,
    data_preprocessor=dict(type='DetDataPreprocessor', pad_size_divisor=32),
    backbone=BACKBONE,
    neck=dict(type='CSPNeXtPAFPN', in_channels=[64, 128, 256], out_channels=16, num_csp_blocks=1, norm_cfg=BN),
    bbox_head=dict(
        type='RTMDetSepBNHead',
        num_classes=5,
        in_channels=16,
        feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(type='MlvlPointGenerator', offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type='DistancePointBBoxCoder'),
        loss_cls=dict(type='QualityFocalLoss', use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
        with_objectness=False,
        share_conv=True,
        norm_cfg=BN,
    ),
    train_cfg=dict(
        assigner=dict(type='DynamicSoftLabelAssigner', topk=13), allowed_border=-1, pos_weight=-1, debug=False
    ),
    test_cfg=dict(
        nms_pre=100, min_bbox_size=0, score_thr=0.001, nms=dict(type='nms', iou_threshold=0.65), max_per_img=20
    ),
)


class Watcher(Hook):
    """After every iteration: whether the L1 loss is on, the losses, the size that the images had, the pipeline."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.seen: list[tuple] = []
        self.size: torch.Size = torch.Size()

    def before_train(self, runner: Runner) -> None:
        def note(module: Any, args: Any) -> None:
            self.size = args[0].shape[-2:]

        runner.model.module.backbone.register_forward_pre_hook(note)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        dataset = runner.train_dataloader.dataset
        skipped = getattr(dataset, '_skip_type_keys', None)
        pipeline = [type(transform).__name__ for transform in getattr(dataset.pipeline, 'transforms', [])]
        self.seen.append((runner.epoch, sorted(outputs), tuple(self.size), skipped, pipeline))


def _loader(dataset: dict, **options: Any) -> dict:
    return dict(
        batch_size=4,
        sampler=dict(type='DefaultSampler', shuffle=options.pop('shuffle', True)),
        dataset=dataset,
        **options,
    )


def _voc(root: str, split: str, pipeline: list, **options: Any) -> dict:
    return dict(
        type='VOCDataset',
        metainfo=METAINFO,
        data_root=f'{root}/',
        ann_file=f'Shapes/ImageSets/Main/{split}.txt',
        data_prefix=dict(sub_data_root='Shapes/'),
        pipeline=pipeline,
        **options,
    )


def _train(work_dir: str, root: str, detector: dict, dataset: dict, hooks: list) -> tuple[list, dict, dict, float]:
    import_modules_from_strings(
        ['mmdet.models', 'mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation', 'resist_mm']
    )
    init_default_scope('mmdet')

    watcher, rounds = Watcher(), ResISTHook(local_iters=3, min_blocks=2, bn_batches=8)
    torch.manual_seed(0)
    runner = toy_runner(
        work_dir,
        [*hooks, dict(EMA), rounds, watcher],
        model=MODELS.build(ConfigDict(detector)),
        train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=3),
        # the path in which the hooks restart the processes of the loader
        train_dataloader=_loader(dataset, num_workers=1, persistent_workers=True),
        val_dataloader=_loader(_voc(root, 'test', TEST, test_mode=True), num_workers=0, shuffle=False),
        val_cfg=dict(),
        val_evaluator=dict(type='VOCMetric', metric='mAP'),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.001, momentum=0.9)),
        randomness=dict(seed=3 + dist.get_rank()),
        default_scope='mmdet',
    )
    runner.train()
    average = next(hook for hook in runner.hooks if isinstance(hook, EMAHook)).ema_model
    state = {name: tensor.clone() for name, tensor in average.state_dict().items()}
    trained = {name: tensor.clone() for name, tensor in runner.model.module.state_dict().items()}
    return watcher.seen, trained, state, runner.message_hub.get_scalar('val/pascal_voc/mAP').current()


@pytest.fixture(scope='module')
def shapes(tmp_path_factory) -> str:
    root = tmp_path_factory.mktemp('shapes')
    make_shapes_voc(root, train=16, test=4, size=64)
    return str(root)


def _check(results: list) -> None:
    for _, trained, averaged, score in results:
        assert score == results[0][3]
        assert averaged['steps'] == 6
        for name in averaged:
            assert torch.equal(averaged[name], results[0][2][name]), name
            assert averaged[name].isfinite().all(), name
        for name in trained:
            assert torch.equal(trained[name], results[0][1][name]), name
            assert averaged[f'module.{name}'].shape == trained[name].shape
        assert any(not torch.equal(averaged[f'module.{name}'], trained[name]) for name in trained)


def test_yolox_with_its_mode_switch_and_its_average(tmp_path, shapes):
    inner = _voc(shapes, 'trainval', LOAD, filter_cfg=dict(filter_empty_gt=False))
    dataset = dict(type='MultiImageMixDataset', dataset=inner, pipeline=YOLOX_PIPELINE)
    hooks = [
        dict(type='YOLOXModeSwitchHook', num_last_epochs=1, priority=48),
        dict(type='SyncNormHook', priority=48),
    ]
    results = run_workers(_train, 2, str(tmp_path), shapes, YOLOX, dataset, hooks)
    _check(results)
    for seen, *_ in results:
        assert [epoch for epoch, *_ in seen] == [0, 0, 1, 1, 2, 2]
        for epoch, losses, size, skipped, _ in seen:
            assert ('loss_bbox_l1' in losses or 'loss_l1' in losses) == (epoch > 0)
            assert skipped == (('Mosaic', 'RandomAffine', 'MixUp') if epoch else None)
            assert all(side % 32 == 0 and 64 <= side <= 96 for side in size)
    sizes = [size for seen, *_ in results for _, _, size, *_ in seen]
    assert len(set(sizes)) > 1, 'images are always resized alike'


def test_rtmdet_with_its_pipeline_switch_and_its_average(tmp_path, shapes):
    resize = [
        dict(type='Resize', scale=SIZE, keep_ratio=True),
        dict(type='Pad', size=SIZE, pad_val=dict(img=(114, 114, 114))),
    ]
    mosaic = [dict(type='CachedMosaic', img_scale=SIZE, pad_val=114.0, max_cached_images=4, random_pop=False)]
    pack = [dict(type='PackDetInputs')]
    dataset = _voc(shapes, 'trainval', [*LOAD, *mosaic, *resize, *pack])
    hooks = [
        dict(type='PipelineSwitchHook', switch_epoch=1, switch_pipeline=[*LOAD, *resize, *pack]),
    ]
    results = run_workers(_train, 2, str(tmp_path), shapes, RTMDET, dataset, hooks)
    _check(results)
    for seen, *_ in results:
        for epoch, _, size, _, pipeline in seen:
            assert size == SIZE
            assert ('CachedMosaic' in pipeline) == (epoch == 0)
