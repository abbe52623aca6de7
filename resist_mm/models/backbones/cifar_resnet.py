"""The post-activation network of the first steps of Fig. 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmcv.cnn import build_conv_layer
from mmdet.models.backbones.resnet import BasicBlock
from torch import nn

from resist_mm.registry import MODELS

from .partitionable_resnet import PartitionableResNet
from .weight_init import INIT_CFGS, check_init

__all__ = ['CIFARResNet']


@MODELS.register_module()
class CIFARResNet(PartitionableResNet):
    """A post-activation ResNet of basic blocks with CIFAR's stem, a 3x3 convolution at stride 1.

    The network that ``resist_mm.PreActResNet(block='basic', stem='cifar')`` is compared
    with in the paper's ablation (Fig. 6).

    Args:
        stage_blocks (Sequence[int]): Number of blocks of every stage.
        init (str): Initial weights if ``init_cfg`` is None: 'kaiming' (mmdet's) or 'torch', as
            for ``resist_mm.PreActResNet``. Defaults to 'kaiming'.
        **kwargs: Arguments of ``resist_mm.PartitionableResNet``; unlike there, ``norm_eval``
            and ``zero_init_residual`` are False by default.

    Raises:
        ValueError: If ``init`` is not known.
    """

    def __init__(self, stage_blocks: Sequence[int], init: str = 'kaiming', **kwargs: Any) -> None:
        check_init(init)
        if init != 'kaiming' and kwargs.get('init_cfg') is None:
            kwargs['init_cfg'] = INIT_CFGS[init]
        # mmdet looks the layout up by depth
        self.arch_settings = {18: (BasicBlock, tuple(stage_blocks))}
        super().__init__(depth=18, **{'norm_eval': False, 'zero_init_residual': False, **kwargs})

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        self.conv1 = build_conv_layer(self.conv_cfg, in_channels, stem_channels, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
