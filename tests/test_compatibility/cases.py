"""Shipped mmdet configs, and how they are shrunk: small real images, a few iterations, the model as it is."""

from __future__ import annotations

import json
import os
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mmengine.config import Config

__all__ = ['CONFIGS', 'IN_CI', 'coco_of_voc', 'shrunk']

# what a reader looks for -> the config
CONFIGS = {
    'Faster R-CNN R50': 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py',
    'Faster R-CNN ResNeXt-101': 'faster_rcnn/faster-rcnn_x101-32x4d_fpn_1x_coco.py',
    'Faster R-CNN R50 DCN': 'dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py',
    'Faster R-CNN Res2Net-101': 'res2net/faster-rcnn_res2net-101_fpn_2x_coco.py',
    'Faster R-CNN RegNetX-400MF': 'regnet/faster-rcnn_regnetx-400MF_fpn_ms-3x_coco.py',
    'Faster R-CNN ResNeSt-50': 'resnest/faster-rcnn_s50_fpn_syncbn-backbone+head_ms-range-1x_coco.py',
    'Faster R-CNN HRNet-W18': 'hrnet/faster-rcnn_hrnetv2p-w18-1x_coco.py',
    'Cascade Mask R-CNN R50': 'cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    'Mask R-CNN Swin-T': 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'Mask R-CNN ConvNeXt-T': 'convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
    'RetinaNet R101': 'retinanet/retinanet_r101_fpn_1x_coco.py',
    'RetinaNet PVT-T': 'pvt/retinanet_pvt-t_fpn_1x_coco.py',
    'FCOS R50': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'ATSS R50': 'atss/atss_r50_fpn_1x_coco.py',
    'GFL R50': 'gfl/gfl_r50_fpn_1x_coco.py',
    'TOOD R50': 'tood/tood_r50_fpn_1x_coco.py',
    'VFNet R50': 'vfnet/vfnet_r50_fpn_1x_coco.py',
    'CenterNet R18': 'centernet/centernet_r18_8xb16-crop512-140e_coco.py',
    'YOLOF R50': 'yolof/yolof_r50-c5_8xb8-1x_coco.py',
    'YOLOv3 Darknet-53': 'yolo/yolov3_d53_8xb8-320-273e_coco.py',
    'YOLOX-s': 'yolox/yolox_s_8xb8-300e_coco.py',
    'RTMDet-tiny': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'Sparse R-CNN R50': 'sparse_rcnn/sparse-rcnn_r50_fpn_1x_coco.py',
    'DETR R50': 'detr/detr_r50_8xb2-150e_coco.py',
    'Deformable DETR R50': 'deformable_detr/deformable-detr_r50_16xb2-50e_coco.py',
    'DINO R50': 'dino/dino-4scale_r50_8xb2-12e_coco.py',
    'Mask2Former R50': 'mask2former/mask2former_r50_8xb2-lsj-50e_coco.py',
    'SSD300 VGG-16': 'ssd/ssd300_coco.py',
}
# a kind of block each, of the small models; the last has none
IN_CI = (
    'Faster R-CNN RegNetX-400MF',
    'RetinaNet PVT-T',
    'CenterNet R18',
    'YOLOX-s',
    'RTMDet-tiny',
    'SSD300 VGG-16',
)
SIZE = (96, 96)
# 900 of its queries have to be found among the positions of all levels
SIZES = {'DINO R50': (256, 256)}
# names of VOC's classes that COCO has by another name
COCO_NAMES = dict(
    aeroplane='airplane', motorbike='motorcycle', sofa='couch', tvmonitor='tv', diningtable='dining table',
    pottedplant='potted plant',
)  # fmt: skip


def missing(name: str) -> str | None:
    """The package that a config needs and that is not installed."""
    return 'mmpretrain' if 'convnext' in CONFIGS[name] and find_spec('mmpretrain') is None else None


def coco_of_voc(voc: Path, target: Path, num_images: int = 8) -> Path:
    """Write COCO annotations of real VOC images, a mask being the box.

    Args:
        voc (Path): The folder VOC2007.
        target (Path): The file to write.
        num_images (int): How many images, the first ones.
    """
    from mmdet.datasets import CocoDataset

    names = CocoDataset.METAINFO['classes']
    images, annotations = [], []
    for image_id, file in enumerate(sorted((voc / 'Annotations').glob('*.xml'))[:num_images]):
        root = ET.parse(file).getroot()
        width, height = (int(root.findtext(f'size/{side}', '0')) for side in ('width', 'height'))
        images.append(dict(id=image_id, file_name=f'{file.stem}.jpg', width=width, height=height))
        for thing in root.iter('object'):
            voc_name = thing.findtext('name', '')
            left, top, right, bottom = (
                float(thing.findtext(f'bndbox/{side}', '0')) for side in ('xmin', 'ymin', 'xmax', 'ymax')
            )
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image_id,
                    category_id=names.index(COCO_NAMES.get(voc_name, voc_name)) + 1,
                    bbox=[left, top, right - left, bottom - top],
                    area=(right - left) * (bottom - top),
                    segmentation=[[left, top, right, top, right, bottom, left, bottom]],
                    iscrowd=0,
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(names)]
    target.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return target


def shrunk(name: str, voc: Path, annotations: Path) -> Config:
    """A shipped config with the model and its optimizer as they are, on eight small images."""
    import mmdet

    cfg = Config.fromfile(os.path.join(os.path.dirname(mmdet.__file__), '.mim/configs', CONFIGS[name]))
    load = [
        dict(type='LoadImageFromFile', backend_args=None),
        dict(type='Resize', scale=SIZES.get(name, SIZE), keep_ratio=False),
    ]
    keys = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')
    its_own = str(cfg.train_dataloader)
    annotated = dict(type='LoadAnnotations', with_bbox=True, with_mask="'with_mask': True" in its_own)
    train = [load[0], annotated, load[1], dict(type='PackDetInputs')]
    test = [*load, dict(type='LoadAnnotations', with_bbox=True), dict(type='PackDetInputs', meta_keys=keys)]
    if name == 'CenterNet R18':  # its head needs to know how the image was padded
        test = cfg.test_dataloader.dataset.pipeline
    for split, pipeline in (('train', train), ('val', test), ('test', test)):
        cfg[f'{split}_dataloader'] = dict(
            batch_size=2 if split == 'train' else 1,
            num_workers=0,
            sampler=dict(
                type='InfiniteSampler' if split == 'train' else 'DefaultSampler', shuffle=split == 'train'
            ),
            dataset=dict(
                type='CocoDataset',
                ann_file=str(annotations),
                data_prefix=dict(img=f'{voc}/JPEGImages/'),
                pipeline=pipeline,
                test_mode=split != 'train',
            ),
        )
    if 'MultiImageMixDataset' in its_own:  # its mode switch hook looks for one
        loader = cfg.train_dataloader
        loader.dataset.pipeline = train[:2]
        loader.dataset = dict(type='MultiImageMixDataset', dataset=loader.dataset, pipeline=train[2:])
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'] = dict(type='CocoMetric', ann_file=str(annotations), metric='bbox')
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4)
    cfg.param_scheduler = []
    if cfg.optim_wrapper.type == 'AmpOptimWrapper':  # for GPUs only; AMP is a step of its own
        cfg.optim_wrapper = dict(type='OptimWrapper', optimizer=cfg.optim_wrapper.optimizer) | {
            key: value for key, value in cfg.optim_wrapper.items() if key in ('clip_grad', 'paramwise_cfg')
        }
    # deep networks of random weights diverge at once at a rate that is meant to follow a warm-up
    cfg.optim_wrapper.optimizer.lr *= 0.01
    cfg.optim_wrapper.setdefault('clip_grad', dict(max_norm=1.0))
    if name == 'Faster R-CNN HRNet-W18':  # random weights overflow where norms use stored statistics
        cfg.model.backbone.norm_eval = False
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=4)
    cfg.default_hooks.logger = dict(type='LoggerHook', interval=1)
    cfg.log_level = 'WARNING'
    cfg.randomness = dict(seed=0)
    cfg.model = _without_weights_and_large_images(cfg.model.to_dict())
    return cfg


def _without_weights_and_large_images(value: Any) -> Any:
    """Nothing is downloaded, and batches keep their size."""
    if isinstance(value, list | tuple):
        return type(value)(_without_weights_and_large_images(item) for item in value)
    if not isinstance(value, dict):
        return value
    kept = {key: _without_weights_and_large_images(item) for key, item in value.items() if key != 'batch_augments'}
    if 'score_thr' in kept:
        kept['score_thr'] = 0.0  # something has to be found by random weights
    if 'pretrained' in kept:
        kept['pretrained'] = None
    if isinstance(value.get('init_cfg'), dict) and 'checkpoint' in value['init_cfg']:
        del kept['init_cfg']
    return kept
