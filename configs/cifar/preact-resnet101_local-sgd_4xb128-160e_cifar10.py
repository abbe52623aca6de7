# CIFAR-10, local SGD, 4 workers (Tables 1, 2 and 4 of the paper): top-1 92.90%.
#
#   tools/dist_train.sh configs/cifar/preact-resnet101_local-sgd_4xb128-160e_cifar10.py 4
#
# For two and eight workers a few keys of this file are changed: python tools/analysis_tools/paper_table.py --commands 2
_base_ = [
    '../_base_/models/preact-resnet101_cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_160e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
