# Your own images in COCO's layout: docs/own_data.md. Inherit this file and set what differs, each thing once;
# '${...}' is replaced by what your config sets.
#
#   data_root/
#     annotations/train.json, val.json
#     train/*, val/*    # where a json has "file_name": "1.jpg", the image is train/1.jpg
data_root = 'data/custom/'
classes = ()  # names of the categories, in the order of the json; your config must set them
image_size = (416, 416)  # images are resized to fit into (width, height)
keep_ratio = True  # False: stretched to exactly that
batch_size = 8  # images of one worker
train_json = 'annotations/train.json'
train_images = 'train/'
test_json = 'annotations/val.json'
test_images = 'val/'

num_classes = '${len(classes)}'
best = 'coco/bbox_mAP'  # the best checkpoint is the one with the highest value of this metric
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale='${image_size}', keep_ratio='${keep_ratio}'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale='${image_size}', keep_ratio='${keep_ratio}'),
    # after Resize, so that drawn boxes are in the coordinates of the original image
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size='${batch_size}',
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CocoDataset',
        data_root='${data_root}',
        # mmdet's palette has 80 colours, too few for more classes; None: random colours
        metainfo=dict(classes='${classes}', palette=None),
        ann_file='${train_json}',
        data_prefix=dict(img='${train_images}'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size='${batch_size}',
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root='${data_root}',
        metainfo=dict(classes='${classes}', palette=None),
        ann_file='${test_json}',
        data_prefix=dict(img='${test_images}'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file='${data_root}/${test_json}', metric='bbox', classwise=True, format_only=False
)
test_evaluator = val_evaluator
