# Second and third step in one, as the other stages have one block each: only stage 3 is dealt out, without its first
# block.
_base_ = './resnet-small_resist-all-blocks_4xb32-1200i_cifar10.py'
model = dict(backbone=dict(partition_stages=('layer3',), partition_first=False))
