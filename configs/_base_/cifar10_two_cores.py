# CIFAR-10, all images, with a network that two CPU cores train in half an hour: reproduce.py cifar10. Without a protocol.
#
# 12 partitioned blocks of 64 channels on 8x8: 6, 3 and, shared, 3 for each of two, four and eight workers. 1,024,000
# training images in all (20.5 epochs), whatever the number of workers: 8,000 iterations of four workers with 32 images
# each. The rate is that of one worker.
_base_ = [
    './models/preact-resnet101_cifar10.py',
    './datasets/cifar10.py',
    './cls_iter_runtime.py',
]
model = dict(
    channels_last=True,
    backbone=dict(stage_blocks=(2, 2, 13, 1), base_channels=16, strides=(1, 2, 2, 2)),
)
train_dataloader = dict(batch_size=32, pin_memory=False, sampler=dict(type='InfiniteSampler'))
val_dataloader = dict(pin_memory=False)
test_dataloader = dict(pin_memory=False)
optim_wrapper = dict(
    type='resist_mm.BF16OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4)
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=500),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=500, end=8000, T_max=7500),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=8000, val_interval=500)
# a shared machine may stop a worker for long
env_cfg = dict(dist_cfg=dict(timeout=7200))
default_hooks = dict(
    checkpoint=dict(interval=500, save_best=None),
    cpu_seconds=dict(type='resist_mm.CPUSecondsHook'),
)
