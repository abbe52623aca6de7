# YOLOv2 for your own data, without data and protocol: docs/own_data.md. ResNet-101 with torchvision's ImageNet weights,
# which mmengine downloads in the first run.
#
# The priors are those of VOC; tools/analysis_tools/optimize_anchors.py computes some from your boxes.
_base_ = ['./models/yolov2_r101.py', 'mmdet::_base_/default_runtime.py']
max_epochs = 50
lr = 1e-4  # for batches of eight images of one worker

model = dict(
    backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101')),
    # 200 batches of eight images, as many batches as Darknet's
    bbox_head=dict(num_classes='${num_classes}', loss='bce', prior_images=1600),
    test_cfg=dict(with_loss=False),
)
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr='${lr}', momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=3, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        by_epoch=True,
        begin=0,
        end='${max_epochs}',
        T_max='${max_epochs}',
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs='${max_epochs}', val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
default_hooks = dict(
    checkpoint=dict(
        type='resist_mm.SafeCheckpointHook', interval=10, max_keep_ckpts=2, save_best='${best}', rule='greater'
    )
)
