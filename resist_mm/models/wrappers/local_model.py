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
    """Trains a model independently on every worker, without any collective.

    Replaces ``MMDistributedDataParallel`` for protocols in which the workers
    communicate only once a round::

        model_wrapper_cfg = dict(type='resist_mm.LocalModel')

    Within ``train_step`` the process appears not to be distributed, so that mmdet's
    ``reduce_mean`` (in the losses of FCOS, DETR, YOLOX, RTMDet, ...) and mmengine's
    collectives act on this worker alone. Between exchanges the workers train
    different networks; a collective would cost a message in each iteration and wait
    for the slowest worker.

    Args:
        module (nn.Module): The model, with mmengine's ``train_step`` interface.

    Attributes:
        instead: What ``train_step`` returns without doing anything, while this worker sits out an iteration.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.instead: dict | None = None

    def train_step(self, data: Any, optim_wrapper: Any) -> dict:
        """One local iteration of this worker; like ``BaseModel.train_step``."""
        if self.instead is not None:
            return self.instead
        with not_distributed():
            return self.module.train_step(data, optim_wrapper)  # type: ignore[operator]

    def val_step(self, data: Any) -> list:
        """Like ``BaseModel.val_step``."""
        return self.module.val_step(data)  # type: ignore[operator]

    def test_step(self, data: Any) -> list:
        """Like ``BaseModel.test_step``."""
        return self.module.test_step(data)  # type: ignore[operator]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Like the wrapped model's ``forward``."""
        return self.module(*args, **kwargs)


@contextmanager
def not_distributed() -> Iterator[None]:
    """Make the process appear not to be distributed."""
    # reduce_mean is imported by name into the modules of dozens of heads, so it cannot be
    # replaced; but everything asks torch.distributed whether it is initialised
    is_initialized = torch.distributed.is_initialized
    torch.distributed.is_initialized = lambda: False
    try:
        yield
    finally:
        torch.distributed.is_initialized = is_initialized
