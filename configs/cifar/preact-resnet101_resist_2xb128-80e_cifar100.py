# CIFAR-100, ResIST, 2 workers (Tables 1, 2 of the paper): top-1 70.06%.
#
#   tools/dist_train.sh configs/cifar/preact-resnet101_resist_2xb128-80e_cifar100.py 2
_base_ = [
    '../_base_/models/preact-resnet101_cifar100.py',
    '../_base_/datasets/cifar100.py',
    '../_base_/schedules/cifar_80e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/resist.py',
]
