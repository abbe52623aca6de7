# CIFAR-10, one member of an ensemble of 4 shallow networks, as deep as the sub-ResNets of 4 workers (Table 7). Train
# 4 of them separately, with seeds 0 to 3, then average their logits: top-1 92.56%. Commands for 2, 4 and 8 members:
#
#   python tools/analysis_tools/paper_table.py --commands 7
_base_ = [
    '../_base_/models/preact-resnet101_cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_160e.py',
    '../_base_/cls_runtime.py',
]
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
model = dict(backbone=dict(stage_blocks=(3, 4, 7, 3)))  # the strided block and 6 others
# as many iterations as a worker has in 160 epochs of 4 workers
param_scheduler = [dict(type='MultiStepLR', by_epoch=True, milestones=[20, 30], gamma=0.1)]
train_cfg = dict(max_epochs=40)
