# Fig. 6, eight workers with two or three blocks each: top-1 86.5%.
_base_ = '../preact-resnet101_resist_8xb128-160e_cifar10.py'
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50, min_blocks=0)]
train_cfg = dict(val_interval=10)  # 490 iterations: one round in ten ends early
