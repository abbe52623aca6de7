# CIFAR-10, the paper's "ResNet152" with 35 partitioned blocks, ResIST, 2 workers, rounds of 100 iterations
# (Table 8): top-1 92.01%, 2215 s on V100s.
_base_ = [
    '../_base_/models/preact-resnet101_cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_15600iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/resist.py',
]
model = dict(backbone=dict(stage_blocks=(3, 4, 36, 3)))
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=100)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(interval=300))
