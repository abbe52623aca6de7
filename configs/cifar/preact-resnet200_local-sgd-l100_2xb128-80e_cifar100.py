# CIFAR-100, the paper's "ResNet200" with 49 partitioned blocks, local SGD, 2 workers, rounds of 100 iterations
# (Table 8): top-1 71.05%, 4639 s on V100s.
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_15600iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
model = dict(backbone=dict(stage_blocks=(3, 4, 50, 3)))
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=100)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(interval=300))
