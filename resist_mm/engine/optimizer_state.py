"""Optimizer state as flat tensors, for rounds between which momentum is kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from mmengine.optim import OptimWrapper, OptimWrapperDict
from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ['OptimizerState', 'StateEntry']


class StateEntry(NamedTuple):
    """One tensor that an optimizer remembers about a parameter.

    Attributes:
        param: The parameter.
        key: Name of the tensor, such as 'momentum_buffer', 'exp_avg', 'step'.
        numel: Number of its elements.
        template: The same of another parameter; gives dtype and device.
    """

    param: nn.Parameter
    key: str
    numel: int
    template: Tensor

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

    def clear(self) -> None:
        """Forget everything: the momentum restart."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def forget(self, params: Iterable[nn.Parameter]) -> None:
        """Forget parameters that are dropped."""
        for p in params:
            if id(p) in self._optimizer_of:
                self._optimizer_of[id(p)].state.pop(p, None)

    def entries(self, params: Iterable[tuple[nn.Parameter, int]]) -> list[StateEntry]:
        """What travels with parameters, given with the number of elements that they have when held.

        The keys are those of some parameter of the same optimizer, so that all
        workers know them, also of blocks that they do not hold.
        """
        templates = {id(optimizer): _templates(optimizer) for optimizer in self.optimizers}
        return [
            StateEntry(p, key, numel if template.dim() else 1, template)
            for p, numel in params
            if id(p) in self._optimizer_of
            for key, template in templates[id(self._optimizer_of[id(p)])].items()
        ]

    def pack(self, entries: Sequence[StateEntry], device: torch.device) -> Tensor:
        """Copy entries into one flat tensor; what an optimizer has not made yet counts as 0."""
        pieces = []
        for entry in entries:
            value = self._optimizer_of[id(entry.param)].state.get(entry.param, {}).get(entry.key)
            if value is None:
                value = torch.zeros(entry.numel)
            pieces.append(value.detach().reshape(-1).to(device, entry.message_dtype))
        return torch.cat(pieces)

    @torch.no_grad()
    def unpack(self, entries: Sequence[StateEntry], flat: Tensor) -> None:
        """Copy a flat tensor back into the state of parameters that are held."""
        for entry, piece in zip(entries, flat.split([entry.numel for entry in entries]), strict=True):
            state = self._optimizer_of[id(entry.param)].state[entry.param]
            if state.get(entry.key) is None:
                like = entry.param if entry.template.dim() else entry.template
                state[entry.key] = torch.empty_like(
                    like, dtype=entry.template.dtype, device=entry.template.device, requires_grad=False
                )
            state[entry.key].copy_(piece.view(state[entry.key].shape))


def _templates(optimizer: Optimizer) -> dict[str, Tensor]:
    """A tensor of every kind that an optimizer keeps, of the parameter that has most kinds."""
    kinds: dict[str, Tensor] = {}
    for state in optimizer.state.values():
        found = {key: value for key, value in state.items() if isinstance(value, Tensor)}
        if len(found) > len(kinds):
            kinds = dict(sorted(found.items()))
    return kinds
