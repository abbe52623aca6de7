# Faster R-CNN for your own data, without data and protocol: docs/own_data.md. ResNet-101 with torchvision's ImageNet
# weights, which mmengine downloads in the first run. Good sizes of images are larger than YOLOv2's: (1000, 600).
_base_ = ['mmdet::_base_/models/faster-rcnn_r50_fpn.py', 'mmdet::_base_/default_runtime.py']
max_epochs = 12
lr = 0.01  # for batches of eight images of one worker

model = dict(
    backbone=dict(
        type='resist_mm.PartitionableResNet',
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    ),
    roi_head=dict(bbox_head=dict(num_classes='${num_classes}')),
)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr='${lr}', momentum=0.9, weight_decay=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end='${max_epochs}',
        T_max='${max_epochs}',
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs='${max_epochs}', val_interval=4)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(
        type='resist_mm.SafeCheckpointHook', interval=4, max_keep_ckpts=2, save_best='${best}', rule='greater'
    )
)
