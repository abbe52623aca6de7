# CIFAR-10, local SGD, 8 workers (Tables 1, 2 and 4 of the paper): top-1 92.00%.
#
#   tools/dist_train.sh configs/cifar/preact-resnet101_local-sgd_8xb128-160e_cifar10.py 8
#
# "A reduction in the number of local iterations" with eight workers (Sec. 6.1), to what is not said.
_base_ = [
    '../_base_/models/preact-resnet101_cifar10.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/cifar_160e.py',
    '../_base_/cls_runtime.py',
    '../_base_/protocols/local_sgd.py',
]
custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=25)]
