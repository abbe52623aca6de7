# CIFAR, 15,600 iterations: 80 epochs of two workers with 128 images each, in 156 rounds of 100 iterations (Table 8).
_base_ = './cifar_15625iters.py'
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[7800, 11700], gamma=0.1)]
train_cfg = dict(max_iters=15600, val_interval=300)
