# ResIST with four workers on two CPU cores, on real CIFAR-10 images:
#
#   tools/dist_train.sh configs/cifar/small/preact-resnet-small_resist_4xb32-1200i_cifar10.py 4
#
# docs/classification.md says what to expect. For other ways to treat BatchNorm and the ladder of Fig. 6 a few keys of
# this file are changed: python tools/analysis_tools/paper_table.py --commands small
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/resist.py']
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0)]
