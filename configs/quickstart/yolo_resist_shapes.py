# A small YOLOv2 under ResIST on generated images: minutes on two CPU cores, with the same code as the full configs.
#
#   bash tools/quickstart.sh
#
# With two workers on a CPU the mAP was 0.8307, 0.778 after 20 of the 40 epochs: docs/results/quickstart.txt
_base_ = ['../_base_/protocols/resist.py', 'mmdet::_base_/default_runtime.py']

data_root = '{{$RESIST_MM_SHAPES:data/shapes/}}'
image_size = (128, 128)  # width and height of the network's input, multiples of 16
# the classes of resist_mm.datasets.make_shapes_voc
metainfo = dict(
    classes=('circle', 'square', 'triangle', 'star', 'cross'),
    palette=[(220, 20, 60), (0, 0, 230), (0, 182, 0), (250, 170, 30), (153, 69, 201)],
)

model = dict(
    type='resist_mm.YOLOV2',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=16,
    ),
    backbone=dict(
        type='resist_mm.PreActResNet',
        block='basic',
        stage_blocks=(1, 1, 7, 1),  # 6 partitioned blocks
        strides=(1, 2, 2, 1),
        base_channels=16,
        out_indices=(3,),
    ),
    bbox_head=dict(
        type='resist_mm.YOLOV2Head',
        loss='bce',
        num_classes=5,
        in_channels=128,
        anchor_generator=dict(
            type='mmdet.YOLOAnchorGenerator', strides=[16], base_sizes=[[(32, 32), (45, 45), (60, 60)]]
        ),
        prior_images=1000,
    ),
    test_cfg=dict(
        with_loss=True,
        score_thr=0.005,
        nms_pre=1000,
        nms=dict(type='nms', iou_threshold=0.45),
        max_per_img=100,
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=image_size, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_size, keep_ratio=False),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size=10,
    num_workers=0,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='VOCDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='Shapes/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='Shapes/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=10,
    num_workers=0,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='VOCDataset',
        metainfo=metainfo,
        data_root=data_root,
        ann_file='Shapes/ImageSets/Main/test.txt',
        data_prefix=dict(sub_data_root='Shapes/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = [
    dict(type='VOCMetric', metric='mAP', eval_mode='area'),
    dict(type='resist_mm.LossMetric', prefix='pascal_voc'),
]
test_evaluator = val_evaluator

custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=20, min_blocks=3)]
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=0.02, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=40, T_max=40, convert_to_iter_based=True),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=40, val_interval=20)
randomness = dict(seed=0)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# by default mmengine averages every logged value with "loss" in its name over earlier values, even the test loss
log_processor = dict(mean_pattern=r'^(train/)?(loss|time|data_time|grad_norm)')
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(type='resist_mm.SafeCheckpointHook', interval=20),
    visualization=dict(type='DetVisualizationHook', score_thr=0.3),
)
