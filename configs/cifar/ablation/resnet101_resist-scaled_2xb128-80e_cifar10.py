# Fig. 6, fourth step: residual branches of the whole model are scaled. CIFAR-10, 2 workers: top-1 91.5%.
# The fifth, pre-activation, is ../preact-resnet101_resist_2xb128-80e_cifar10.py: 92.0%.
_base_ = './resnet101_resist-stage3_2xb128-80e_cifar10.py'
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50)]
