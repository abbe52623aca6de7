# YOLOv2 on Pascal VOC, without a protocol: common to the configs of Table 6.
#
# 100 epochs from scratch. The learning rate rises over 30 epochs and is divided by ten after 60 and 90 (Sec. 5). The
# paper's rates are not known; 1e-3 is darknet's for this loss (a sum over the image, averaged over the batch).
_base_ = [
    './models/yolov2_r101.py',
    './datasets/voc0712_448.py',
    'mmdet::_base_/default_runtime.py',
]

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='SGD', lr=1e-3, momentum=0.9, weight_decay=5e-4),
    clip_grad=dict(max_norm=35, norm_type=2),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=30, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[60, 90], gamma=0.1),
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=100, val_interval=10)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')

default_hooks = dict(
    checkpoint=dict(
        type='resist_mm.SafeCheckpointHook',
        interval=10,
        max_keep_ckpts=3,  # each has 340 MB, momentum included
        save_best=['pascal_voc/loss', 'pascal_voc/mAP'],
        rule=['less', 'greater'],
    )
)
# by default mmengine averages every logged value with "loss" in its name over earlier values, even the test loss
log_processor = dict(mean_pattern=r'^(train/)?(loss|time|data_time|grad_norm)')
env_cfg = dict(dist_cfg=dict(timeout=600))  # seconds that a worker waits for the others
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends, name='visualizer')
