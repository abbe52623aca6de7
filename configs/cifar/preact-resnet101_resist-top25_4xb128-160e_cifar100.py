# CIFAR-100, ResIST that sends the largest quarter of the weights only, 4 workers (Sec. A.5): top-1 71.25%.
_base_ = './preact-resnet101_resist_4xb128-160e_cifar100.py'
custom_hooks = [
    dict(type='resist_mm.ResISTHook', local_iters=50, codec=dict(type='topk', share=0.25)),
]
