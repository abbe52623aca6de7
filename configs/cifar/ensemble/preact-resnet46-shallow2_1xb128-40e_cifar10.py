# CIFAR-10, one member of an ensemble of 2 shallow networks, as deep as the sub-ResNets of 2 workers (Table 7).
# Train 2 of them apart, with seeds 0 to 1, then average their logits: top-1 92.27%.
#
#   python tools/train.py CONFIG --work-dir work_dirs/preact-resnet46-shallow2_1xb128-40e_cifar10/0 --cfg-options randomness.seed=0
#   python tools/test_ensemble.py CONFIG work_dirs/preact-resnet46-shallow2_1xb128-40e_cifar10/*/epoch_40.pth
_base_ = [
    '../../_base_/models/preact-resnet101_cifar10.py',
    '../../_base_/datasets/cifar10.py',
    '../../_base_/schedules/cifar_80e.py',
    '../../_base_/cls_runtime.py',
]
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
model = dict(backbone=dict(stage_blocks=(3, 4, 12, 3)))  # the strided block and 11 others
# as many iterations as a worker has in 80 epochs of 2 workers
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[20, 30], gamma=0.1)]
train_cfg = dict(max_epochs=40)
