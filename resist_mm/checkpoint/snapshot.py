"""A copy of a checkpoint in host memory."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

__all__ = ['snapshot']


def snapshot(value: Any) -> Any:
    """Copy a checkpoint to host memory, so that nothing in it changes while training goes on.

    Tensors that share storage stay shared.
    """
    return _copy(value, {})


def _copy(value: Any, memo: dict) -> Any:
    if isinstance(value, Tensor):
        if value.device.type == 'cpu':
            return copy.deepcopy(value.detach(), memo)
        if id(value) not in memo:
            memo[id(value)] = value.detach().cpu()
            memo.setdefault('alive', []).append(value)  # as long as its id is used
        return memo[id(value)]
    if type(value) in (list, tuple):
        return type(value)(_copy(item, memo) for item in value)
    if not isinstance(value, dict):
        return copy.deepcopy(value, memo)
    copied = copy.copy(value)  # keeps the class, and the _metadata of a state dict
    for key, item in value.items():
        copied[key] = _copy(item, memo)
    return copied
