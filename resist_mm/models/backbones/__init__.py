"""Backbones with a partitioned stage."""

from importlib.util import find_spec

from .preact_blocks import PreActBasicBlock, PreActBottleneck
from .preact_resnet import PreActResNet

__all__ = ['PreActBasicBlock', 'PreActBottleneck', 'PreActResNet']

if find_spec('mmdet') is not None:  # classification runs without mmdet
    from .cifar_resnet import CIFARResNet
    from .partitionable_resnet import PartitionableResNet

    __all__ += ['CIFARResNet', 'PartitionableResNet']
