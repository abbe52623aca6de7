# ImageNet, data-parallel training with 4 workers, for comparison; not in the paper. The optimizer sees the batch of all
# workers, so the learning rate is four times as high, and rises over the first five epochs.
_base_ = [
    '../_base_/models/preact-resnet101_in1k.py',
    '../_base_/datasets/imagenet_bs256.py',
    '../_base_/schedules/imagenet_90e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/ddp.py',
]
optim_wrapper = dict(optimizer=dict(lr=0.4))
auto_scale_lr = dict(enable=False, base_batch_size=1024)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.25, by_epoch=True, begin=0, end=5, convert_to_iter_based=True),
    dict(type='MultiStepLR', by_epoch=True, milestones=[30, 60], gamma=0.1),
]
