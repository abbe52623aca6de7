# ImageNet (ILSVRC2012) at 224x224, with a batch of 256 images per worker and standard augmentation (the paper does not
# describe any other). RESIST_MM_IMAGENET=/path/ sets the location of the folders train/ and val/.
data_root = '{{$RESIST_MM_IMAGENET:data/imagenet/}}'
train_pipeline = [
    dict(type='RandomResizedCrop', size=224, antialias=True),
    dict(type='RandomHorizontalFlip'),
    dict(type='ToImage'),  # uint8; normalised by the model's data_preprocessor
]
test_pipeline = [
    dict(type='Resize', size=256, antialias=True),
    dict(type='CenterCrop', size=224),
    dict(type='ToImage'),  # uint8; normalised by the model's data_preprocessor
]
train_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='resist_mm.collate'),
    dataset=dict(type='resist_mm.ImageNet', data_root=data_root, split='train', pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=256,
    num_workers=8,
    persistent_workers=True,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='resist_mm.collate'),
    dataset=dict(type='resist_mm.ImageNet', data_root=data_root, split='val', pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='resist_mm.Accuracy', topk=(1, 5)), dict(type='resist_mm.LossMetric')]
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
