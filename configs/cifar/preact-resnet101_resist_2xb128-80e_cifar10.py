# CIFAR-10, ResIST, 2 workers (Tables 1, 2 of the paper): top-1 91.95%.
#
#   tools/dist_train.sh configs/cifar/preact-resnet101_resist_2xb128-80e_cifar10.py 2
_base_ = [
    '../_base_/models/preact-resnet101_cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_80e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/resist.py',
]
