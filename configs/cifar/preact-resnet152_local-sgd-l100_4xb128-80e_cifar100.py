# CIFAR-100, the paper's "ResNet152" with 35 partitioned blocks, local SGD, 4 workers, rounds of 100 iterations
# (Table 8): top-1 68.39%, 3518 s on V100s.
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_7800iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
model = dict(backbone=dict(stage_blocks=(3, 4, 36, 3)))
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=100)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(interval=300))
