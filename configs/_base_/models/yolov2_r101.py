# A ResNet-101 and one convolution that predicts the boxes: the detector of Sec. 5, "Object Detection".
model = dict(
    type='resist_mm.YOLOV2',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='resist_mm.PartitionableResNet',
        depth=101,
        out_indices=(3,),
        norm_eval=False,  # from scratch, BatchNorm has to train; mmdet's default is True
    ),
    bbox_head=dict(type='resist_mm.YOLOV2Head', num_classes=20, in_channels=2048),
    test_cfg=dict(
        with_loss=True,  # the test loss, which the paper reports
        score_thr=0.005,
        nms_pre=1000,
        nms=dict(type='nms', iou_threshold=0.45),
        max_per_img=100,
    ),
)
