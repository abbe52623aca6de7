# CIFAR, 7,800 iterations: 80 epochs of four workers with 128 images each, in 78 rounds of 100 iterations (Table 8). The
# length is given in iterations so that long rounds are not cut short.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[3900, 5850], gamma=0.1)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=7800, val_interval=300)
