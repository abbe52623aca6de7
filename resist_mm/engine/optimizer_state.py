"""Optimizer state as flat tensors, for rounds between which momentum is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from mmengine.dist import all_gather_object
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ['OptimizerState', 'StateEntry']


class StateKind(NamedTuple):
    """A tensor that an optimizer keeps for each parameter.

    Attributes:
        key: Its name, such as 'momentum_buffer', 'exp_avg', 'step'.
        like_param: Whether it is shaped as the parameter; if not, it is one number.
        dtype: Its dtype.
        on_cpu: Whether it stays on the CPU, as a step count does.
    """

    key: str
    like_param: bool
    dtype: torch.dtype
    on_cpu: bool


class StateEntry(NamedTuple):
    """One tensor that an optimizer keeps for one parameter.

    Attributes:
        param: The parameter.
        kind: What it is.
        numel: Number of its elements.
    """

    param: nn.Parameter
    kind: StateKind
    numel: int

    @property
    def message_dtype(self) -> torch.dtype:
        """At least fp32: a step count does not survive half precision."""
        return torch.promote_types(torch.float32, self.param.dtype)

    @property
    def nbytes(self) -> int:
        """Size in a message, in bytes."""
        return self.numel * self.message_dtype.itemsize


class OptimizerState:
    """What the optimizers of a run remember about parameters.

    Tensors travel with their parameter: those of its shape (SGD's
    ``momentum_buffer``, Adam's ``exp_avg``) and single numbers (``step``).

    Args:
        optim_wrapper (OptimWrapper or OptimWrapperDict): The run's own.
    """

    def __init__(self, optim_wrapper: OptimWrapper | OptimWrapperDict) -> None:
        wrappers = list(optim_wrapper.values()) if isinstance(optim_wrapper, OptimWrapperDict) else [optim_wrapper]
        self.optimizers: list[Optimizer] = [wrapper.optimizer for wrapper in wrappers]
        self._optimizer_of = {
            id(p): optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for p in group['params']
        }
        self._kinds: dict[int, list[StateKind]] = {}

    def clear(self) -> None:
        """Forget everything: the momentum restart."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def forget(self, params: Iterable[nn.Parameter]) -> None:
        """Forget parameters that are dropped."""
        for p in params:
            if id(p) in self._optimizer_of:
                self._optimizer_of[id(p)].state.pop(p, None)

    def agree_on_kinds(self) -> None:
        """Find out, with all workers, what there is to travel; once that is known, do nothing.

        A worker may not have taken a step yet (a loss scale that is still too large,
        accumulated gradients), and would not know by itself.

        Raises:
            ValueError: If an optimizer keeps something of another shape.
        """
        if any(self._kinds.values()):
            return
        of_workers = all_gather_object([_kinds_of(optimizer) for optimizer in self.optimizers])
        for i, optimizer in enumerate(self.optimizers):
            kinds = {kind.key: kind for of_worker in of_workers for kind in of_worker[i]}
            self._kinds[id(optimizer)] = [kinds[key] for key in sorted(kinds)]

    def entries(self, params: Iterable[tuple[nn.Parameter, int]]) -> list[StateEntry]:
        """What travels with parameters, given with the number of elements that they have when held."""
        return [
            StateEntry(p, kind, numel if kind.like_param else 1)
            for p, numel in params
            if id(p) in self._optimizer_of
            for kind in self._kinds.get(id(self._optimizer_of[id(p)]), [])
        ]

    def pack(self, entries: Sequence[StateEntry], device: torch.device) -> Tensor:
        """Copy entries into one flat tensor; what an optimizer has not made yet counts as 0."""
        pieces = []
        for entry in entries:
            value = self._optimizer_of[id(entry.param)].state.get(entry.param, {}).get(entry.kind.key)
            if value is None:
                value = torch.zeros(entry.numel)
            pieces.append(value.detach().reshape(-1).to(device, entry.message_dtype))
        return torch.cat(pieces)

    @torch.no_grad()
    def unpack(self, entries: Sequence[StateEntry], flat: Tensor) -> None:
        """Copy a flat tensor back into the state of parameters that are held."""
        for entry, piece in zip(entries, flat.split([entry.numel for entry in entries]), strict=True):
            state, kind = self._optimizer_of[id(entry.param)].state[entry.param], entry.kind
            if state.get(kind.key) is None:
                device = torch.device('cpu') if kind.on_cpu else entry.param.device
                state[kind.key] = (
                    torch.empty_like(entry.param, dtype=kind.dtype, device=device, requires_grad=False)
                    if kind.like_param
                    else torch.empty((), dtype=kind.dtype, device=device)
                )
            state[kind.key].copy_(piece.view(state[kind.key].shape))


def _kinds_of(optimizer: Optimizer) -> list[StateKind]:
    """What an optimizer keeps, judged by parameters that are not single numbers themselves."""
    kinds: dict[str, StateKind] = {}
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if not isinstance(value, Tensor) or (key in kinds and p.numel() == 1):
                continue
            like_param = value.shape == p.shape
            if not like_param and value.numel() != 1:
                raise ValueError(
                    f'{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for a parameter of '
                    f'shape {tuple(p.shape)}, which cannot be handed over between rounds: set '
                    'momentum_restart_interval=1'
                )
            kinds[key] = StateKind(key, like_param, value.dtype, value.device.type == 'cpu')
    return list(kinds.values())
