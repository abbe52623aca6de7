# Fig. 6, third step: only the blocks of stage 3 are dealt out. CIFAR-10, 2 workers: top-1 84.3%.
_base_ = './resnet101_resist-share-strided_2xb128-80e_cifar10.py'
model = dict(backbone=dict(partition_stages=('layer3',)))
