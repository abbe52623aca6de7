"""Modules that noted, when they were built, how many workers there are."""

from __future__ import annotations

from mmengine.dist import get_dist_info
from torch import nn

__all__ = ['detach_from_others']


def detach_from_others(model: nn.Module) -> None:
    """Let modules that have noted rank and number of workers act for themselves, as all else in ``train_step``.

    mmdet's ``BatchSyncRandomResize`` (YOLOX) is one: worker 0 draws a size, and the others wait to be told. In a
    round nobody tells them, and they would resize to whatever is in memory. So each worker draws its own.
    """
    mine = get_dist_info()
    for module in model.modules():
        if (getattr(module, 'rank', None), getattr(module, 'world_size', None)) == mine:
            vars(module).update(rank=0, world_size=1)
