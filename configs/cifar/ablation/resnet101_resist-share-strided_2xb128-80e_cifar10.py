# Fig. 6, second step: the first, strided block of every stage is shared. CIFAR-10, 2 workers: top-1 68.3%.
_base_ = './resnet101_resist-all-blocks_2xb128-80e_cifar10.py'
model = dict(backbone=dict(partition_first=False))
