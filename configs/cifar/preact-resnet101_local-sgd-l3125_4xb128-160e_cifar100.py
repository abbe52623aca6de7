# CIFAR-100, local SGD, rounds of 3,125 iterations (Fig. 7; the paper's figure has no numbers).
# For four workers; the same file with two workers is 80 epochs.
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_15625iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=3125)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
default_hooks = dict(checkpoint=dict(interval=3125))
