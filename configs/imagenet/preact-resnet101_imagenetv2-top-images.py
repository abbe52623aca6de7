# Tests a network trained on ImageNet on ImageNetV2, top-images (Table 3): top-1 75.48 / 74.27% for local SGD with 2 / 4
# workers, 73.56 / 72.65% for ResIST.
#
#   python tools/test.py configs/imagenet/preact-resnet101_imagenetv2-top-images.py \
#       work_dirs/RUN/epoch_90.pth --work-dir work_dirs/RUN/imagenetv2-top-images
_base_ = './preact-resnet101_local-sgd_4xb256-90e_in1k.py'
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='resist_mm.ImageNetV2',
        data_root='{{$RESIST_MM_IMAGENETV2:data/imagenetv2/}}',
        variant='top-images',
        pipeline=_base_.test_pipeline,
    )
)
