# CIFAR-100, local SGD, rounds of 15,625 iterations (Fig. 7; the paper's figure has no numbers). The workers meet once, at the end.
# For four workers; the same file with two workers is 80 epochs.
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_15625iters.py',
    '../_base_/cls_iter_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=15625)]
train_dataloader = dict(sampler=dict(type='InfiniteSampler'))
train_cfg = dict(val_interval=15625)  # sooner would end the round
default_hooks = dict(checkpoint=dict(interval=15625))
