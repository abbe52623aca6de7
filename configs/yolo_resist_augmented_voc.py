# YOLOv2 on Pascal VOC under ResIST, with the multi-scale training and the augmentation that YOLOv2 itself had and the
# paper's plain run (yolo_resist_voc.py) has not, and with the loss that finds rare and small objects
# (docs/detection.md). Not in the paper.
#
#   tools/dist_train.sh configs/yolo_resist_augmented_voc.py 4
#
# Every ten batches a worker draws another size between 320 and 608 pixels; tests are at image_size.
_base_ = './yolo_resist_voc.py'
model = dict(
    data_preprocessor=dict(
        batch_augments=[
            dict(type='BatchSyncRandomResize', random_size_range=(320, 608), size_divisor=32, interval=10)
        ]
    ),
    bbox_head=dict(loss='bce'),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Expand', mean=_base_.model.data_preprocessor.mean, to_rgb=True, ratio_range=(1, 2)),
    dict(type='MinIoURandomCrop', min_ious=(0.4, 0.5, 0.6, 0.7, 0.8, 0.9), min_crop_size=0.3),
    dict(type='Resize', scale=_base_.image_size, keep_ratio=False),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackDetInputs'),
]
train_dataloader = _base_.train_dataloader
for dataset in train_dataloader.dataset.datasets:
    dataset.pipeline = train_pipeline
del dataset
