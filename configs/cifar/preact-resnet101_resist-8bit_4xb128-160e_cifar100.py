# CIFAR-100, ResIST with 8-bit messages, 4 workers (Table 9): top-1 71.38%.
_base_ = './preact-resnet101_resist_4xb128-160e_cifar100.py'
custom_hooks = [
    dict(type='resist_mm.ResISTHook', local_iters=50, codec=dict(type='quantize', bits=8)),
]
