# Tests a network trained on ImageNet on ImageNetV2 (Table 3). Top-1 in % for local SGD and ResIST with 2 / 4 workers:
#
#   matched-frequency  60.72 / 59.88  58.92 / 57.56
#   threshold-0.7      69.47 / 68.34  67.51 / 66.46
#   top-images         75.48 / 74.27  73.56 / 72.65
#
#   python tools/test.py configs/imagenet/preact-resnet101_imagenetv2.py work_dirs/RUN/epoch_90.pth \
#       --work-dir work_dirs/RUN/imagenetv2-top-images --cfg-options test_dataloader.dataset.variant=top-images
_base_ = './preact-resnet101_local-sgd_4xb256-90e_in1k.py'
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='resist_mm.ImageNetV2',
        data_root='{{$RESIST_MM_IMAGENETV2:data/imagenetv2/}}',
        variant='matched-frequency',
        pipeline=_base_.test_pipeline,
    )
)
