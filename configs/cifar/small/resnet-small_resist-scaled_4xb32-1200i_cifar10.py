# Fourth step: residual branches of the whole model are scaled.
_base_ = './resnet-small_resist-stage3_4xb32-1200i_cifar10.py'
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0)]
