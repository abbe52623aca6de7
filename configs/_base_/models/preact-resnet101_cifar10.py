# The paper's "ResNet101" for CIFAR: basic blocks in ResNet-101's layout, 22 of them partitioned; 41,350,730
# parameters with 10 classes, 41,396,900 with 100.
#
# Batches are cropped, flipped and normalised on the device. The same transforms may be put in the pipelines of the data
# sets instead, to be applied to single images.
train_pipeline = [
    dict(type='RandomCrop', size=32, padding=4),
    dict(type='RandomHorizontalFlip'),
    dict(type='ToImage'),
    dict(type='ToDtype', dtype='float32', scale=True),
    dict(type='Normalize', mean=[0.4914, 0.4822, 0.4465], std=[0.2470, 0.2435, 0.2616]),
]
test_pipeline = train_pipeline[2:]
model = dict(
    type='resist_mm.ImageClassifier',
    data_preprocessor=dict(
        type='resist_mm.BatchPreprocessor', train_pipeline=train_pipeline, test_pipeline=test_pipeline
    ),
    backbone=dict(
        type='resist_mm.PreActResNet',
        block='basic',
        stage_blocks=(3, 4, 23, 3),
        stem='cifar',
        final_norm=False,  # as in the authors' scripts
        out_indices=(3,),
        init='torch',  # as in the authors' scripts
    ),
    num_classes=10,
)
