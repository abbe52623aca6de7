"""Trains and tests small detectors for one step each, and prints the numbers as JSON.

Run as a script, in a process that has imported ``resist_mm``.
"""

from __future__ import annotations

import json

import mmcv.ops
import torch
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmdet.utils import register_all_modules
from mmengine.hub import get_config
from mmengine.structures import InstanceData

BACKBONES = {
    'DCN': dict(dcn=dict(type='DCN', deform_groups=2), stage_with_dcn=(False, False, True, True)),
    'DCNv2': dict(dcn=dict(type='DCNv2', deform_groups=2), stage_with_dcn=(False, False, True, True)),
}


def build(backbone: dict) -> torch.nn.Module:
    """mmdet's Faster R-CNN, with few channels after the backbone."""
    cfg = get_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py').model
    cfg.backbone.update(init_cfg=None, norm_eval=False, frozen_stages=-1, **backbone)
    cfg.neck.out_channels = 16
    cfg.rpn_head.update(in_channels=16, feat_channels=16)
    cfg.roi_head.bbox_roi_extractor.out_channels = 16
    cfg.roi_head.bbox_head.update(in_channels=16, fc_out_channels=32)
    cfg.test_cfg.rcnn.update(score_thr=0.0, nms=dict(type='soft_nms', iou_threshold=0.5))
    model = MODELS.build(cfg)
    for name, parameter in model.named_parameters():
        if 'conv_offset' in name:  # begins as zero: an ordinary convolution
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def numbers(backbone: dict) -> dict[str, float]:
    """Loss, norm of the gradients and what is detected, from the same random numbers each time."""
    torch.manual_seed(0)
    model = build(backbone)
    size = (96, 128)
    sample = DetDataSample(metainfo=dict(img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1, 1)))
    boxes = torch.tensor([[10.0, 10, 60, 70], [40, 20, 90, 90]])
    sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([3, 7]))
    image = torch.rand(1, 3, *size)
    loss, _ = model.parse_losses(model.loss(image, [sample]))
    loss.backward()
    gradients = [parameter.grad.flatten() for parameter in model.parameters() if parameter.grad is not None]
    with torch.no_grad():
        found = model.eval().predict(image, [sample])[0].pred_instances
    return dict(
        loss=loss.item(),
        gradient=torch.cat(gradients).norm().item(),
        number=len(found),
        boxes=found.bboxes.mean().item(),
        scores=found.scores.mean().item(),
    )


if __name__ == '__main__':
    torch.set_num_threads(1)
    register_all_modules()
    results = {name: numbers(backbone) for name, backbone in BACKBONES.items()}
    print(json.dumps(dict(ops=type(mmcv._ext).__name__, **results)))
