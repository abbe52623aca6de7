# CIFAR, 15,625 iterations: 160 epochs of four workers with 128 images each, or 80 epochs of two. By iterations, so
# that long rounds are not cut: 15,625 is a power of 5.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=False, milestones=[7812, 11718], gamma=0.1)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=15625, val_interval=3125)
