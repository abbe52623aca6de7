# A smaller detector than the quickstart's, on images where one class, the star, is rare and small: one object in thirteen,
# 10 to 16 pixels of 96.
#
#   python tools/dataset_converters/make_shapes_voc.py data/rare_shapes --size 96 --train 300 --test 300 --rare star
#   tools/dist_train.sh configs/quickstart/yolo_resist_rare-shapes.py 2
#
# docs/detection.md has the average precision of each class with loss='bce', as here, and with loss='squared'.
_base_ = './yolo_resist_shapes.py'
data_root = '{{$RESIST_MM_RARE_SHAPES:data/rare_shapes/}}'
image_size = (96, 96)
model = dict(
    data_preprocessor=dict(pad_size_divisor=8),
    backbone=dict(strides=(1, 2, 1, 1), base_channels=8),
    bbox_head=dict(
        in_channels=64,
        anchor_generator=dict(strides=[8], base_sizes=[[(13, 13), (24, 24), (34, 34), (44, 44)]]),
    ),
)

train_pipeline = _base_.train_pipeline
test_pipeline = _base_.test_pipeline
train_pipeline[2].scale = test_pipeline[1].scale = image_size
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = dict(dataset=dict(data_root=data_root, pipeline=test_pipeline))

custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=15, min_blocks=3)]
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=50),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=0, end=30, T_max=30, convert_to_iter_based=True),
]
train_cfg = dict(max_epochs=30, val_interval=10)
default_hooks = dict(
    checkpoint=dict(interval=5, max_keep_ckpts=1),
    cpu_seconds=dict(type='resist_mm.CPUSecondsHook'),
)
