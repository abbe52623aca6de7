# YOLOv2 on 2,000 pictures of VOC2007 at 160x160, with a backbone that two CPU cores train in half an hour:
# reproduce.py voc. Without a protocol.
#
# 12 partitioned blocks. The learning rate rises over the first 30% of training and is divided by ten after 60% and 90%,
# as in Sec. 5 of the paper; unlike there, pictures are flipped and cropped, as there are only 1,600 to train on.
_base_ = ['./datasets/voc0712_448.py', 'mmdet::_base_/default_runtime.py']

data_root = '{{$RESIST_MM_VOC:data/VOCdevkit/}}'
image_size = (160, 160)
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
        stage_blocks=(1, 1, 13, 1),
        strides=(1, 2, 2, 1),
        base_channels=32,
        out_indices=(3,),
    ),
    bbox_head=dict(
        type='resist_mm.YOLOV2Head',
        num_classes=20,
        in_channels=256,
        # YOLOv2's five priors, which are for 416x416
        anchor_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            strides=[16],
            base_sizes=[[(16, 21), (39, 49), (62, 100), (117, 60), (138, 123)]],
        ),
        prior_images=3200,
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
    dict(type='MinIoURandomCrop', min_ious=(0.5, 0.7, 0.9), min_crop_size=0.5),
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
    batch_size=8,  # 50 iterations of four workers are an epoch
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        _delete_=True,
        type='VOCDataset',
        data_root=data_root,
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(batch_size=10, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline))
test_dataloader = dict(
    batch_size=10, num_workers=0, persistent_workers=False, dataset=dict(pipeline=test_pipeline)
)

optim_wrapper = dict(
    type='resist_mm.BF16OptimWrapper',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=30, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[60, 90], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
# the training process itself crops and flips: workers should not all do it alike
randomness = dict(seed=None, diff_rank_seed=True)
default_hooks = dict(
    checkpoint=dict(type='resist_mm.SafeCheckpointHook', interval=5, max_keep_ckpts=1),
    visualization=dict(type='DetVisualizationHook', score_thr=0.3),
    cpu_seconds=dict(type='resist_mm.CPUSecondsHook'),
)
# by default mmengine averages every logged value with "loss" in its name over earlier values, even the test loss
log_processor = dict(mean_pattern=r'^(train/)?(loss|time|data_time|grad_norm)')
env_cfg = dict(dist_cfg=dict(timeout=7200))  # a shared machine may stop a worker for long
