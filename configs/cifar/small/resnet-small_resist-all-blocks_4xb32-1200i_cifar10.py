# The ladder of Fig. 6 on two CPU cores, first step: every block of a post-activation network is dealt out, the
# strided ones too, and nothing is scaled. The last step is preact-resnet-small_resist_4xb32-1200i_cifar10.py. Needs
# mmdet.
_base_ = ['../../_base_/cifar10_small.py', '../../_base_/protocols/resist.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='resist_mm.CIFARResNet',
        stage_blocks=(1, 1, 13, 1),
        base_channels=16,
        strides=(2, 2, 2, 1),
        out_indices=(3,),
        partition_stages=('layer1', 'layer2', 'layer3', 'layer4'),
        partition_first=True,
    )
)
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=25, min_blocks=0, activation_scale=1)]
