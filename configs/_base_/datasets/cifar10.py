# CIFAR-10, kept in memory, with a batch of 128 images per worker. Each worker sees its shard once per epoch.
#
# data_root: torchvision's layout, or class folders in train/ and test/; set it with RESIST_MM_CIFAR10=/path/.
data_root = '{{$RESIST_MM_CIFAR10:data/cifar10/}}'
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # a batch is a single lookup in memory
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='resist_mm.collate'),
    dataset=dict(type='resist_mm.CIFAR10', data_root=data_root, split='train', in_memory=True),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='resist_mm.collate'),
    dataset=dict(type='resist_mm.CIFAR10', data_root=data_root, split='test', in_memory=True),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='resist_mm.Accuracy', topk=(1, 5)), dict(type='resist_mm.LossMetric')]
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
