# CIFAR-100, 128 images a worker, kept in memory. Each worker sees its shard once an epoch.
#
# data_root: torchvision's layout, or class folders train/ and test/; RESIST_MM_CIFAR100=/path/ says where.
data_root = '{{$RESIST_MM_CIFAR100:data/cifar100/}}'
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # there is nothing to wait for: a batch is one look into memory
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    collate_fn=dict(type='resist_mm.collate'),
    dataset=dict(type='resist_mm.CIFAR100', data_root=data_root, split='train', in_memory=True),
)
val_dataloader = dict(
    batch_size=500,
    num_workers=0,
    pin_memory=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='resist_mm.collate'),
    dataset=dict(type='resist_mm.CIFAR100', data_root=data_root, split='test', in_memory=True),
)
test_dataloader = val_dataloader
val_evaluator = [dict(type='resist_mm.Accuracy', topk=(1, 5)), dict(type='resist_mm.LossMetric')]
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
