# CIFAR, 7,800 iterations: 80 epochs of four workers with 128 images each, in 78 rounds of 100 iterations (Table 8).
_base_ = './cifar_15625iters.py'
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[3900, 5850], gamma=0.1)]
train_cfg = dict(max_iters=7800, val_interval=300)
