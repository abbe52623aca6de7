# The small ResIST run with all blocks dealt out, the strided ones too, and nothing scaled: the foot of the ladder of
# Fig. 6.
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/resist.py']
model = dict(
    backbone=dict(partition_stages=('layer1', 'layer2', 'layer3', 'layer4'), partition_first=True),
)
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0, activation_scale=1)]
