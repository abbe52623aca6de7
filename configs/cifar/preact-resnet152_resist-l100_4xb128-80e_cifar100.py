# CIFAR-100, ResIST with the paper's "ResNet152", 35 partitioned blocks, 4 workers (Table 8): top-1 67.27%, 1164 s on
# V100s. Rounds of 100 iterations; the length of the run is given in iterations.
#
#   tools/dist_train.sh configs/cifar/preact-resnet152_resist-l100_4xb128-80e_cifar100.py 4
#
# For local SGD, ResNet200, two workers, and the long rounds of Fig. 7 a few keys of this file are changed:
# python tools/analysis_tools/paper_table.py --commands 8 fig7
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_7800iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/resist.py',
]
model = dict(backbone=dict(stage_blocks=(3, 4, 36, 3)))
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=100)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(interval=300))
