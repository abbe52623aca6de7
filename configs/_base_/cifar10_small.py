# A small network on part of CIFAR-10, to compare methods in minutes on two CPU cores. 12 partitioned blocks, 3 for each
# of four workers. Without a protocol.
_base_ = [
    './models/preact-resnet101_cifar10.py',
    './datasets/cifar10.py',
    './cls_iter_runtime.py',
]
model = dict(
    backbone=dict(stage_blocks=(1, 1, 13, 1), base_channels=16, strides=(2, 2, 2, 1), init='kaiming'),
)
train_dataloader = dict(
    batch_size=32, pin_memory=False, sampler=dict(type='InfiniteSampler'), dataset=dict(max_images=20000)
)
val_dataloader = dict(pin_memory=False)
test_dataloader = dict(pin_memory=False)
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9, weight_decay=5e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=100),
    dict(type='CosineAnnealingLR', by_epoch=False, begin=0, end=1200, T_max=1200),
]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1200, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=1200))
