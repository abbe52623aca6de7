"""A model wrapper that exchanges no gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed
from torch import nn

from resist_mm.registry import MODEL_WRAPPERS

__all__ = ['LocalModel', 'not_distributed']


@MODEL_WRAPPERS.register_module()
class LocalModel(nn.Module):
    """Trains a model on every worker by itself: no gradient, no collective at all.

    Takes the place of ``MMDistributedDataParallel`` for protocols in which the
    workers meet only once a round::

        model_wrapper_cfg = dict(type='resist_mm.LocalModel')

    Code that a model runs within ``train_step`` sees a process that is not
    distributed. So mmdet's ``reduce_mean`` (in the losses of FCOS, DETR, YOLOX,
    RTMDet, ...) and mmengine's collectives act on this worker alone. Workers of
    ResIST train different networks between exchanges; a collective there would
    cost a message in each iteration and wait for the slowest worker.

    Args:
        module (nn.Module): The model, with mmengine's ``train_step`` interface.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def train_step(self, data: Any, optim_wrapper: Any) -> dict:
        """One local iteration of this worker, as ``BaseModel.train_step``."""
        with not_distributed():
            return self.module.train_step(data, optim_wrapper)  # type: ignore[operator]

    def val_step(self, data: Any) -> list:
        """As ``BaseModel.val_step``."""
        return self.module.val_step(data)  # type: ignore[operator]

    def test_step(self, data: Any) -> list:
        """As ``BaseModel.test_step``."""
        return self.module.test_step(data)  # type: ignore[operator]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the wrapped model's ``forward``."""
        return self.module(*args, **kwargs)


@contextmanager
def not_distributed() -> Iterator[None]:
    """Lets the code inside see a process that is not distributed."""
    # reduce_mean was imported by name into the modules of dozens of heads, so it can
    # not be replaced; but everything asks torch.distributed whether it is initialised
    is_initialized = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_initialized = is_initialized
