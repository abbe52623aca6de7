# Your own images in Pascal VOC's layout: docs/own_data.md. Inherit this file and set what differs, each thing once;
# '${...}' is replaced by what your config sets.
#
#   data_root/
#     JPEGImages/*.jpg
#     Annotations/*.xml
#     ImageSets/Main/trainval.txt, test.txt    # names of the images, one a line, without .jpg
data_root = 'data/custom/'
classes = ()  # names as in the <name> of the annotations; your config must set them
image_size = (416, 416)  # images are resized to fit into (width, height)
keep_ratio = True  # False: stretched to exactly that
batch_size = 8  # images of one worker
train_list = 'trainval'  # the name of a file in ImageSets/Main/
test_list = 'test'

num_classes = '${len(classes)}'
best = 'pascal_voc/mAP'  # the best checkpoint is the one with the highest value of this metric
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
    # after Resize: metrics want boxes in the coordinates of the original image
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='PackDetInputs', meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor')),
]
train_dataloader = dict(
    batch_size='${batch_size}',
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='XMLDataset',  # VOCDataset without the names and the palette of VOC's twenty classes
        data_root='${data_root}',
        metainfo=dict(classes='${classes}'),
        ann_file='ImageSets/Main/${train_list}.txt',
        data_prefix=dict(sub_data_root=''),
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
        type='XMLDataset',
        data_root='${data_root}',
        metainfo=dict(classes='${classes}'),
        ann_file='ImageSets/Main/${test_list}.txt',
        data_prefix=dict(sub_data_root=''),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='VOCMetric', metric='mAP', eval_mode='area')  # prints a table with the AP of each class
test_evaluator = val_evaluator
