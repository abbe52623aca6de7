"""What optimizers keep for their parameters, found out by looking at one that has taken a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ['Kinds', 'StateKind', 'kinds_of', 'merge']


class StateKind(NamedTuple):
    """Something that an optimizer keeps for each parameter.

    Attributes:
        key: Its name, such as 'momentum_buffer', 'exp_avg', 'step'.
        like_param: Whether it has the shape of the parameter; if not, it is a single number.
        dtype: Its dtype.
        on_cpu: Whether it stays on the CPU, as a step count does.
        plain: Its type, if it is a number of Python and no tensor.
    """

    key: str
    like_param: bool
    dtype: torch.dtype
    on_cpu: bool
    plain: type | None = None


# by index of the optimizer and dtype of the parameter, then by key
Kinds = dict[tuple[int, torch.dtype], dict[str, StateKind]]


def kinds_of(optimizers: Sequence[Optimizer]) -> Kinds | str:
    """What optimizers keep, judged by parameters of more than one element where possible.

    Returns:
        Kinds or str: An error if something cannot be handed over.
    """
    found: Kinds = {}
    for i, optimizer in enumerate(optimizers):
        for p, state in optimizer.state.items():
            if not isinstance(p, Tensor):
                continue
            kinds = found.setdefault((i, p.dtype), {})
            for key, value in state.items():
                if value is None or (key in kinds and p.numel() == 1):
                    continue
                kind = _kind_of(key, value, p)
                if isinstance(kind, str):
                    return (
                        f'{type(optimizer).__name__} keeps {key!r}, {kind}, which cannot be handed over between '
                        'rounds: set momentum_restart_interval=1'
                    )
                kinds[key] = kind
    return {place: kinds for place, kinds in found.items() if kinds}


def merge(known: Kinds, of_workers: Sequence[Kinds | str]) -> Kinds:
    """Add what the workers have found to what all know; the same on all workers.

    Raises:
        ValueError: If one of them has found something that cannot be handed over.
    """
    merged: Kinds = {place: dict(kinds) for place, kinds in known.items()}
    for worker, found in enumerate(of_workers):
        if isinstance(found, str):
            raise ValueError(f'worker {worker}: {found}')
        for place, kinds in found.items():
            merged.setdefault(place, {}).update(kinds)
    return merged


def _kind_of(key: str, value: Any, p: Tensor) -> StateKind | str:
    if isinstance(value, bool | int | float):
        return StateKind(key, False, torch.float32, True, type(value))
    if not isinstance(value, Tensor):
        return f'a {type(value).__name__}'
    like_param = value.shape == p.shape
    if not like_param and value.numel() != 1:
        return f'of shape {tuple(value.shape)} for a parameter of shape {tuple(p.shape)}'
    return StateKind(key, like_param, value.dtype, value.device.type == 'cpu')
