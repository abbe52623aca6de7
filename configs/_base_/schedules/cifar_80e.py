# CIFAR, 80 epochs counted over all workers together: the schedule for two workers (Sec. 5).
_base_ = './cifar_160e.py'
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[40, 60], gamma=0.1)]
train_cfg = dict(max_epochs=80)
