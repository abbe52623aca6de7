# CIFAR, 160 epochs counted over all workers together: the schedule for four and eight workers (Sec. 5). The workers
# average parameters, so the learning rate goes with the batch of one worker, whatever their number.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=5e-4))
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[80, 120], gamma=0.1)]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=160, val_interval=5)
