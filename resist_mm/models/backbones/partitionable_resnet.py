"""mmdet's ResNet with a partitioned stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmdet.models.backbones.resnet import ResNet

from resist_mm.registry import MODELS

from .stages import partition_stages_of

__all__ = ['PartitionableResNet']


@MODELS.register_module()
class PartitionableResNet(ResNet):
    """mmdet's ``ResNet`` whose stages can be dealt out by blocks (ResIST, Sec. 2.2).

    Parameter names are those of mmdet's and torchvision's ResNet, so that their
    weights load; the only new entry of the state dict is ``<stage>.scale``.
    All other arguments, their defaults included, are mmdet's: mind that
    ``norm_eval`` is True by default, and that training from scratch needs
    ``norm_eval=False``.

    Args:
        partition_stages (Sequence[str]): Stages whose blocks are dealt out.
            Defaults to ``('layer3',)``, as in the paper.
        partition_first (bool): Whether the first block of these stages, the one
            with the projection shortcut, is dealt out too: its residual branch
            only, the shortcut stays shared. Defaults to False, as in the paper.
        *args, **kwargs: Arguments of ``mmdet.models.ResNet``.

    Raises:
        ValueError: If a stage does not exist or has too few blocks.

    Example:
        >>> import torch
        >>> from resist_mm.models import PartitionableResNet
        >>> backbone = PartitionableResNet(depth=18, partition_stages=('layer2', 'layer3'))
        >>> [tuple(out.shape) for out in backbone(torch.rand(2, 3, 64, 64))]
        [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4), (2, 512, 2, 2)]
    """

    def __init__(
        self,
        *args: Any,
        partition_stages: Sequence[str] = ('layer3',),
        partition_first: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        partition_stages_of(self, partition_stages, partition_first)
