"""mmdet's own configs, converted: which stages, and that the result is the same model, able to train in part."""

from __future__ import annotations

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.utils.dl_utils.parrots_wrapper import SyncBatchNorm

from resist_mm.convert import read_config, to_local_sgd, to_resist
from resist_mm.convert.build import build_to_look_at
from resist_mm.convert.plain import plain_config
from resist_mm.models.partition import partitioned_stages

pytest.importorskip('mmdet')

R50 = ['layer2', 'layer3']
# of the backbone, for 4 workers
STAGES = {
    'atss/atss_r50_fpn_1x_coco.py': R50,
    'cascade_rcnn/cascade-mask-rcnn_x101-32x4d_fpn_1x_coco.py': ['layer3'],
    'centernet/centernet_r18_8xb16-crop512-140e_coco.py': ['layer1[:]', 'layer2', 'layer3', 'layer4'],
    'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py': R50,
    'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py': R50,
    'detr/detr_r50_8xb2-150e_coco.py': R50,
    'dino/dino-4scale_r50_8xb2-12e_coco.py': R50,
    'efficientnet/retinanet_effb3_fpn_8xb4-crop896-1x_coco.py': ['layers.4[1:5]', 'layers.5[1:6]'],
    'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py': R50,
    'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py': R50,
    'gfl/gfl_r50_fpn_1x_coco.py': R50,
    'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py': ['stage4.0.branches.3[:]', 'stage4.1.branches.3[:]'],
    'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py': R50,
    'pvt/retinanet_pvt-t_fpn_1x_coco.py': ['layers.0.1', 'layers.1.1', 'layers.2.1', 'layers.3.1'],
    'regnet/retinanet_regnetx-3.2GF_fpn_1x_coco.py': ['layer3'],
    'res2net/faster-rcnn_res2net-101_fpn_2x_coco.py': ['layer3'],
    'resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py': R50,
    'retinanet/retinanet_r101_fpn_1x_coco.py': ['layer3'],
    'retinanet/retinanet_r50_fpn_1x_coco.py': R50,
    'retinanet/retinanet_x101-32x4d_fpn_1x_coco.py': ['layer3'],
    'rtmdet/rtmdet_l_8xb32-300e_coco.py': ['stage2.1.blocks[:]', 'stage3.1.blocks[:]'],
    'rtmdet/rtmdet_tiny_8xb32-300e_coco.py': ['stage1.1.blocks[:]', 'stage2.1.blocks[:]', 'stage3.1.blocks[:]'],
    'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py': R50,
    'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py': ['stages.2.blocks[:]', 'stages.3.blocks[:]'],
    'tood/tood_r50_fpn_1x_coco.py': R50,
    'yolo/yolov3_d53_8xb8-320-273e_coco.py': ['conv_res_block4'],
    'yolo/yolov3_mobilenetv2_8xb24-320-300e_coco.py': ['layer3', 'layer4', 'layer5', 'layer6'],
    'yolof/yolof_r50-c5_8xb8-1x_coco.py': R50,
    'yolox/yolox_s_8xb8-300e_coco.py': ['stage1.1.blocks[:]', 'stage2.1.blocks[:]', 'stage3.1.blocks[:]'],
}


@pytest.mark.parametrize('config', STAGES)
def test_stages_of(config: str):
    cfg, changes = to_resist(f'mmdet::{config}', workers=4)
    assert cfg.model.backbone.type == 'resist_mm.Partitioned'
    assert cfg.model.backbone.stages == STAGES[config]

    plain = read_config(f'mmdet::{config}')
    hooks = [hook['type'] for hook in plain.get('custom_hooks') or []]
    assert [hook['type'] for hook in cfg.custom_hooks] == [*hooks, 'resist_mm.ResISTHook']
    assert cfg.model_wrapper_cfg.type == 'resist_mm.LocalModel'
    assert cfg.custom_imports.imports[-1] == 'resist_mm'
    assert any('stages' in change for change in changes)

    model, plain_model = build_to_look_at(cfg), build_to_look_at(plain)
    if not any('syncbn' in change.lower() for change in changes):
        assert plain_config(cfg).model == plain.model, 'the way back'
    scales = {f'{name}.scale' for name in partitioned_stages(model)}
    assert len(scales) == len(STAGES[config])
    assert set(model.state_dict()) == {*plain_model.state_dict(), *scales}
    assert not any(isinstance(m, SyncBatchNorm) for m in model.modules())
    num_blocks = sum(stage.num_partitioned for stage in partitioned_stages(model).values())
    assert cfg.custom_hooks[-1].min_blocks < num_blocks


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ('ssd/ssd300_coco.py', 'SSDVGG has no chain of residual blocks'),
        ('detectors/detectors_htc-r50_1x_coco.py', 'Refused: Bottleneck: .*rfp_forward'),
        ('soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py', 'MeanTeacherHook'),
    ],
)
def test_what_cannot_be_converted_says_why(config: str, message: str):
    with pytest.raises(ValueError, match=message):
        to_resist(f'mmdet::{config}', workers=4)


@pytest.mark.parametrize(
    'config',
    [
        'yolox/yolox_s_8xb8-300e_coco.py',
        'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
        # what --resist refuses
        'ssd/ssd300_coco.py',
        'detectors/detectors_htc-r50_1x_coco.py',
        'soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py',
    ],
)
def test_local_sgd_takes_any_model(config: str):
    cfg, _ = to_local_sgd(f'mmdet::{config}', local_iters=20)
    plain = read_config(f'mmdet::{config}')
    assert cfg.custom_hooks == [
        *plain.get('custom_hooks', []),
        dict(type='resist_mm.LocalSGDHook', local_iters=20),
    ]
    assert cfg.model.get('backbone', {}).get('type') == plain.model.get('backbone', {}).get('type')
    assert 'SyncBN' not in str(cfg.model)


@pytest.mark.parametrize(
    ('config', 'stages'),
    [
        ('res2net/faster-rcnn_res2net-101_fpn_2x_coco.py', None),
        ('regnet/retinanet_regnetx-800MF_fpn_1x_coco.py', None),
        ('swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', None),
        ('hrnet/fcos_hrnetv2p-w18-gn-head_4xb4-1x_coco.py', None),
        ('rtmdet/rtmdet_tiny_8xb32-300e_coco.py', None),
        ('yolo/yolov3_d53_8xb8-320-273e_coco.py', None),
        ('yolox/yolox_s_8xb8-300e_coco.py', None),
        ('pvt/retinanet_pvt-t_fpn_1x_coco.py', None),
        ('detr/detr_r50_8xb2-150e_coco.py', ['backbone.layer3', 'encoder.layers[:]']),
    ],
)
def test_the_converted_model_computes_the_same_and_trains_in_part(config: str, stages: list[str] | None):
    plain_cfg = read_config(f'mmdet::{config}')
    converted, _ = to_resist(plain_cfg, workers=2, stages=stages)
    plain, model = build(plain_cfg).eval(), build(converted).eval()
    model.load_state_dict(plain.state_dict())  # a scale that is missing means 1
    batch = demo_batch(plain)
    with torch.no_grad():
        for one, other in zip(features(plain, batch), features(model, batch), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)

    model.train()
    for stage in partitioned_stages(model).values():
        stage.hold([0])
    losses = model(**model.data_preprocessor(batch, False), mode='loss')
    model.parse_losses(losses)[0].backward()
    for stage in partitioned_stages(model).values():
        assert all(p.grad is None for n in range(1, stage.num_partitioned) for p in stage.block_parameters(n))
        assert all(p.grad is not None for p in stage.block_parameters(0))


def build(cfg: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(copy.deepcopy(cfg.model))


def demo_batch(model: torch.nn.Module) -> dict:
    from mmdet.testing import demo_mm_inputs

    torch.manual_seed(0)
    return demo_mm_inputs(2, [[3, 64, 64], [3, 64, 64]], num_classes=5, use_box_type=True)


def features(model: torch.nn.Module, batch: dict) -> list[torch.Tensor]:
    data = model.data_preprocessor(copy.deepcopy(batch), False)
    return list(model.extract_feat(data['inputs']))
