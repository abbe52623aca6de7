# mmdet's own Faster R-CNN on Pascal VOC, trained under ResIST: an example of putting ResIST into any mmdet config.
# Not in the paper. Starts from ImageNet weights, which mmengine downloads.
_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', '../_base_/protocols/resist.py']
model = dict(
    backbone=dict(
        type='resist_mm.PartitionableResNet',
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    )
)
# Not needed for the swap: checkpoints that are always whole, and the best by mAP.
default_hooks = dict(
    checkpoint=dict(
        type='resist_mm.SafeCheckpointHook', max_keep_ckpts=3, save_best='pascal_voc/mAP', rule='greater'
    )
)

# Not needed for the swap: makes RESIST_MM_VOC set the location of the images. The data sets of the base file already
# have their data_root, so it has to be replaced in each.
train_dataloader, val_dataloader = _base_.train_dataloader, _base_.val_dataloader
for dataset in (*train_dataloader.dataset.dataset.datasets, val_dataloader.dataset):
    dataset.data_root = '{{$RESIST_MM_VOC:data/VOCdevkit/}}'
del dataset
test_dataloader = val_dataloader
