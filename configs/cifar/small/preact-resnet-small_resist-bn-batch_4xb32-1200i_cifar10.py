# The small ResIST run with the statistics of the batch in evaluation too, as in the authors' scripts. Test images are
# shuffled: class folders are read class by class, and the statistics of a batch of one class say nothing.
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/resist.py']
model = dict(backbone=dict(norm_cfg=dict(type='BN', track_running_stats=False)))
val_dataloader = dict(sampler=dict(shuffle=True))
test_dataloader = dict(sampler=dict(shuffle=True))
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0)]
