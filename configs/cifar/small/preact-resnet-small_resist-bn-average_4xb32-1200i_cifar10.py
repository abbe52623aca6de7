# The small ResIST run with BatchNorm's running statistics averaged with the parameters.
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/resist.py']
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0, bn='average')]
