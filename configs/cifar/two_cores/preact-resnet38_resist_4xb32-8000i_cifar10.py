# CIFAR-10 under ResIST with four workers, as far as two CPU cores get in half an hour (Table 2 in small):
#
#   tools/dist_train.sh configs/cifar/two_cores/preact-resnet38_resist_4xb32-8000i_cifar10.py 4
#
# python tools/analysis_tools/reproduce.py cifar10 runs it with two, four and eight workers, and what it is compared
# with; the results go to docs/results/cifar10.
_base_ = ['../../_base_/cifar10_two_cores.py', '../../_base_/protocols/resist.py']
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50, min_blocks=3)]
