# Local SGD, to be compared with preact-resnet-small_resist_4xb32-1200i_cifar10.py; the same number of iterations.
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/local_sgd.py']
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=25)]
