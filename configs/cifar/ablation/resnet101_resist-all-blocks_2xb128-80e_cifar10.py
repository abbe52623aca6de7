# Fig. 6, first step: every block of a post-activation network is dealt out, the strided ones too (their residual
# branch; a projection shortcut stays), and nothing is scaled. CIFAR-10, 2 workers: top-1 66.3%. Needs mmdet.
_base_ = '../preact-resnet101_resist_2xb128-80e_cifar10.py'
model = dict(
    backbone=dict(
        _delete_=True,
        type='resist_mm.CIFARResNet',
        stage_blocks=(3, 4, 23, 3),
        out_indices=(3,),
        init='torch',
        partition_stages=('layer1', 'layer2', 'layer3', 'layer4'),
        partition_first=True,
    )
)
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50, activation_scale=1)]
