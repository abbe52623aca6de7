# ImageNet, local SGD, 4 workers (Tables 3 and 5): top-1 72.66%, 29.29 hours on V100s. With 2 workers, from the
# same file, top-1 73.32%, 48.61 hours, and twice as many rounds.
#
#   tools/dist_train.sh configs/imagenet/preact-resnet101_local-sgd_4xb256-90e_in1k.py 4
#
# 5,670 rounds of 20 iterations; the validation after every epoch ends one round in 63 early. Momentum restarts every
# 1300 rounds; in between it travels with the parameters, which doubles the bytes. Batch statistics are averaged every
# 1300 rounds and at each validation. The paper does not say whether its 1300 is meant for both, so there are two keys.
_base_ = [
    '../_base_/models/preact-resnet101_in1k.py',
    '../_base_/datasets/imagenet_bs256.py',
    '../_base_/schedules/imagenet_90e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
custom_hooks = [
    dict(
        type='resist_mm.LocalSGDHook',
        local_iters=20,
        momentum_restart_interval=1300,
        bn='average',
        bn_interval=1300,
    )
]
