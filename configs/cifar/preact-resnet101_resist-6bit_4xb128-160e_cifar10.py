# CIFAR-10, ResIST with 6-bit messages, 4 workers (Table 9): top-1 91.91%.
_base_ = './preact-resnet101_resist_4xb128-160e_cifar10.py'
custom_hooks = [
    dict(type='resist_mm.ResISTHook', local_iters=50, codec=dict(type='quantize', bits=6)),
]
