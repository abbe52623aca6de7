# YOLOv2 on Pascal VOC 2007 alone under ResIST, for those who do not have 2012: trained on 5,011 images, tested on 4,952.
# Everything except the training set is the same as in yolo_resist_voc.py.
#
#   tools/dist_train.sh configs/yolo_resist_voc07.py 4
_base_ = './yolo_resist_voc.py'
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='VOCDataset',
        data_root=_base_.data_root,
        ann_file='VOC2007/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='VOC2007/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=_base_.train_pipeline,
    )
)
