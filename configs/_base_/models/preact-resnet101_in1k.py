# ResNet-101 for ImageNet, with pre-activation bottleneck blocks, 22 of them partitioned. Batches arrive as uint8, a
# quarter of the size of float32, and are normalised on the device.
normalize = [
    dict(type='ToDtype', dtype='float32', scale=True),
    dict(type='Normalize', mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
]
model = dict(
    type='resist_mm.ImageClassifier',
    data_preprocessor=dict(type='resist_mm.BatchPreprocessor', train_pipeline=normalize, test_pipeline=normalize),
    backbone=dict(type='resist_mm.PreActResNet', depth=101, out_indices=(3,)),
    num_classes=1000,
)
