# Tests a network trained on ImageNet on ImageNetV2, threshold-0.7 (Table 3): top-1 69.47 / 68.34% for local SGD with 2 / 4
# workers, 67.51 / 66.46% for ResIST.
#
#   python tools/test.py configs/imagenet/preact-resnet101_imagenetv2-threshold-0.7.py \
#       work_dirs/RUN/epoch_90.pth --work-dir work_dirs/RUN/imagenetv2-threshold-0.7
_base_ = './preact-resnet101_local-sgd_4xb256-90e_in1k.py'
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='resist_mm.ImageNetV2',
        data_root='{{$RESIST_MM_IMAGENETV2:data/imagenetv2/}}',
        variant='threshold-0.7',
        pipeline=_base_.test_pipeline,
    )
)
