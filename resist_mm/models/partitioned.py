"""The builder that partitions any model of a config."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from resist_mm.registry import MODELS

from .partition import partition

__all__ = ['Partitioned']


@MODELS.register_module()
def Partitioned(model: dict | str | type | nn.Module, stages: str | Sequence[str], **kwargs: Any) -> nn.Module:
    """Build a model, or a part of one such as its backbone, and partition chains of its residual blocks.

    The result is the inner model itself; parameters keep their names. This is a builder rather than a hook,
    because inference runs no hooks but needs the activation scale.

    Args:
        model (dict, str, type or nn.Module): The config of what to build, in any scope, such as
            ``dict(type='mmdet.Swin')``; or only its type. In that case its other arguments stand beside it, where
            anything that changes a config (command-line options, ``init_detector``, a child config) expects them.
        stages (str or Sequence[str]): The paths of the chains, relative to ``model``: ``'layer3'`` (all blocks
            but the first), or with a slice, ``'stages.2.blocks[:]'``. See
            :func:`resist_mm.models.partition.partition`.
        **kwargs: Arguments of the model if ``model`` is a type.

    Returns:
        nn.Module: The model.

    Raises:
        TypeError: If arguments are given beside a model that is built already or given as a config.
        ValueError: If a path does not exist, a chain has no block to partition or a block cannot be partitioned.

    Example:
        >>> backbone = dict(
        ...     type='resist_mm.Partitioned',
        ...     model='mmdet.ResNeXt',
        ...     stages='layer3',
        ...     depth=101,
        ...     groups=32,
        ...     base_width=4,
        ... )
    """
    if isinstance(model, str | type):
        model = dict(type=model, **kwargs)
    elif kwargs:
        raise TypeError(
            f'resist_mm.Partitioned got {sorted(kwargs)} beside a whole model: they belong in `model`, or `model` '
            'has to be a type'
        )
    built = model if isinstance(model, nn.Module) else MMENGINE_MODELS.build(model)
    partition(built, stages)
    return built
