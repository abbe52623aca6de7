# mmdet's own Faster R-CNN on Pascal VOC, trained under ResIST: how to swap ResIST into any mmdet config.
# Not in the paper. Starts from ImageNet weights, which mmengine downloads.
_base_ = ['mmdet::pascal_voc/faster-rcnn_r50_fpn_1x_voc0712.py', '../_base_/protocols/resist.py']
model = dict(
    backbone=dict(
        type='resist_mm.PartitionableResNet',
        depth=101,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet101'),
    )
)
