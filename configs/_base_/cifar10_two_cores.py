# CIFAR-10, all images, with a network that two CPU cores train in half an hour: docs/results/cifar10. Without a protocol.
#
# 12 partitioned blocks: 6, 3 and, shared, 3 for each of two, four and eight workers. 819,200 training images in all,
# whatever the number of workers: 6,400 iterations of four workers with 32 images each. The rate is that of one worker.
_base_ = [
    './models/preact-resnet101_cifar10.py',
    './datasets/cifar10.py',
    './cls_iter_runtime.py',
]
model = dict(
    channels_last=True,
    backbone=dict(stage_blocks=(2, 2, 13, 1), base_channels=32, strides=(2, 2, 2, 1)),
)
train_dataloader = dict(batch_size=32, pin_memory=False, sampler=dict(type='InfiniteSampler'))
val_dataloader = dict(pin_memory=False)
test_dataloader = dict(pin_memory=False)
optim_wrapper = dict(
    type='resist_mm.BF16OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=400),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=400, end=6400, T_max=6000),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=6400, val_interval=400)
# a shared machine may stop a worker for long
env_cfg = dict(dist_cfg=dict(timeout=7200))
default_hooks = dict(
    checkpoint=dict(interval=400, save_best=None),
    cpu_seconds=dict(type='resist_mm.CPUSecondsHook'),
)
