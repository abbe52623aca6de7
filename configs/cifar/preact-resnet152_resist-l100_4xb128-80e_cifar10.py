# CIFAR-10, ResIST with the paper's "ResNet152", 35 partitioned blocks, 4 workers (Table 8): top-1 90.67%, 1054 s on
# V100s. Rounds of 100 iterations; the length of the run is given in iterations.
#
#   tools/dist_train.sh configs/cifar/preact-resnet152_resist-l100_4xb128-80e_cifar10.py 4
#
# For local SGD, ResNet200 and two workers a few keys of this file are changed:
# python tools/analysis_tools/paper_table.py --commands 8
_base_ = [
    '../_base_/models/preact-resnet101_cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_7800iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/resist.py',
]
model = dict(backbone=dict(stage_blocks=(3, 4, 36, 3)))
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=100)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(interval=300))
