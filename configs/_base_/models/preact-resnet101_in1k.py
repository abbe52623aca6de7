# ResNet-101 for ImageNet, with pre-activation bottleneck blocks, 22 of them partitioned.
model = dict(
    type='resist_mm.ImageClassifier',
    backbone=dict(type='resist_mm.PreActResNet', depth=101, out_indices=(3,)),
    num_classes=1000,
)
