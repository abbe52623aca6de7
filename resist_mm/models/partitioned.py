"""The builder that partitions any model of a config."""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from resist_mm.registry import MODELS

from .partition import partition

__all__ = ['Partitioned']


@MODELS.register_module()
def Partitioned(model: dict | nn.Module, stages: str | Sequence[str]) -> nn.Module:
    """Build a model, or a part of one such as its backbone, and partition chains of its residual blocks.

    The result is the inner model itself; parameters keep their names. This is a builder, not a hook, because
    inference runs no hooks, and the activation scale has to be there.

    Args:
        model (dict or nn.Module): The config of what is built, in any scope: ``type='mmdet.Swin'``.
        stages (str or Sequence[str]): The paths of the chains, seen from ``model``: ``'layer3'`` (all blocks
            but the first), or with a slice, ``'stages.2.blocks[:]'``. See
            :func:`resist_mm.models.partition.partition`.

    Returns:
        nn.Module: The model.

    Raises:
        ValueError: If a path does not exist, a chain is too short or a block cannot be partitioned.

    Example:
        >>> model = dict(
        ...     backbone=dict(
        ...         type='resist_mm.Partitioned',
        ...         model=dict(type='mmdet.ResNeXt', depth=101, groups=32, base_width=4),
        ...         stages='layer3',
        ...     )
        ... )
    """
    built = model if isinstance(model, nn.Module) else MMENGINE_MODELS.build(model)
    partition(built, stages)
    return built
