# custom_yolov2.py with a small network that trains from scratch in minutes on two CPU cores, without a download: to try
# things out, or for plain images. The network and the schedule are those of configs/quickstart/yolo_resist_shapes.py.
_base_ = './custom_yolov2.py'
max_epochs = 40
lr = 0.02

model = dict(
    data_preprocessor=dict(pad_size_divisor=16),
    backbone=dict(
        _delete_=True,
        type='resist_mm.PreActResNet',
        block='basic',
        stage_blocks=(1, 1, 7, 1),  # 6 partitioned blocks
        strides=(1, 2, 2, 1),
        base_channels=16,
        out_indices=(3,),
    ),
    bbox_head=dict(
        in_channels=128,
        anchor_generator=dict(
            type='mmdet.YOLOAnchorGenerator', strides=[16], base_sizes=[[(32, 32), (45, 45), (60, 60)]]
        ),
        prior_images=1000,
    ),
)
