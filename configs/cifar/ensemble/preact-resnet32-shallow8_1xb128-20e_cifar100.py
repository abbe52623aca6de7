# CIFAR-100, one member of an ensemble of 8 shallow networks, as deep as the sub-ResNets of 8 workers (Table 7).
# Train 8 of them apart, with seeds 0 to 7, then average their logits: top-1 67.98%.
#
#   python tools/train.py CONFIG --work-dir work_dirs/preact-resnet32-shallow8_1xb128-20e_cifar100/0 --cfg-options randomness.seed=0
#   python tools/test_ensemble.py CONFIG work_dirs/preact-resnet32-shallow8_1xb128-20e_cifar100/*/epoch_20.pth
_base_ = [
    '../../_base_/models/preact-resnet101_cifar100.py',
    '../../_base_/datasets/cifar100.py',
    '../../_base_/schedules/cifar_80e.py',
    '../../_base_/cls_runtime.py',
]
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
model = dict(backbone=dict(stage_blocks=(3, 4, 5, 3)))  # the strided block and 4 others
# as many iterations as a worker has in 160 epochs of 8 workers
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[10, 15], gamma=0.1)]
train_cfg = dict(max_epochs=20)
