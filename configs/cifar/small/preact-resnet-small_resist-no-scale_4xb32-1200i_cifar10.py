# The small ResIST run without scaling of residual branches: a step of the ladder of Fig. 6.
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/resist.py']
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0, activation_scale=1)]
