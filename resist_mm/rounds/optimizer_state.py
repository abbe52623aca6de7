"""The state of the optimizers, such as momentum, as something that travels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .agreement import tell_all
from .part import Part
from .states import TravellingState

__all__ = ['OptimizerState']


class StateKind(NamedTuple):
    """A tensor that an optimizer keeps for each parameter.

    Attributes:
        key: Its name, such as 'momentum_buffer', 'exp_avg', 'step'.
        like_param: Whether it has the shape of the parameter; if not, it is a single number.
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
        size: Its shape.
        stride: Its strides.
    """

    param: nn.Parameter
    kind: StateKind
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of its elements."""
        return torch.Size(self.size).numel()


class OptimizerState(TravellingState):
    """The state that a run's optimizers keep for each parameter; it travels, or is cleared.

    Tensors travel with their parameter: those of its shape (SGD's ``momentum_buffer``,
    Adam's ``exp_avg``) and single numbers (``step``).

    Args:
        optimizers (Sequence[Optimizer]): All optimizers of the run.
        restart_interval (int, optional): Number of rounds after which the state is cleared; between
            restarts it travels. None: it is never cleared. Defaults to 1: it never travels.
    """

    makes_copies = True

    def __init__(self, optimizers: Sequence[Optimizer], restart_interval: int | None = 1) -> None:
        self.optimizers = list(optimizers)
        self.restart_interval = restart_interval
        self._optimizer_of = {
            p: optimizer
            for optimizer in self.optimizers
            for group in optimizer.param_groups
            for p in group['params']
        }
        self._kinds: dict[Optimizer, list[StateKind]] = {}
        self._new: dict[tuple[nn.Parameter, str], Tensor] = {}  # allocated, not in use yet

    def travels(self, round_index: int, whole: bool) -> bool:
        """Whether it travels: always, unless the optimizers restart after this round."""
        return self.restart_interval is None or (round_index + 1) % self.restart_interval != 0

    def prepare(self) -> None:
        """Find out together with all workers what the optimizers keep; do nothing once that is known.

        A worker that has not taken a step yet (because of a loss scale that is still too
        large, or accumulated gradients) could not find out alone.

        Raises:
            ValueError: On all workers, if an optimizer of one of them keeps a tensor of another shape.
        """
        if any(self._kinds.values()):
            return
        found = [_kinds_of(optimizer) for optimizer in self.optimizers]
        of_workers = tell_all(found)
        for i, optimizer in enumerate(self.optimizers):
            kinds: dict[str, StateKind] = {}
            for of_worker in of_workers:
                if isinstance(of_worker[i], str):
                    raise ValueError(of_worker[i])
                kinds |= {kind.key: kind for kind in of_worker[i]}
            self._kinds[optimizer] = [kinds[key] for key in sorted(kinds)]

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """One tensor with everything, or none; in at least fp32: half precision cannot hold step counts."""
        entries = self._entries(part)
        if not entries:
            return []
        return [(sum(e.numel for e in entries), torch.promote_types(torch.float32, entries[0].param.dtype))]

    def tensors(self, part: Part) -> list[Tensor]:
        """Everything, packed; state that an optimizer has not created yet counts as 0."""
        entries = self._entries(part)
        if not entries:
            return []
        ((numel, dtype),) = self.sizes(part)
        packed = torch.zeros(numel, dtype=dtype, device=entries[0].param.device)
        numbers, places = [], []
        offset = 0
        for entry in entries:
            value = self._state(entry).get(entry.kind.key)
            if value is not None and entry.kind.like_param:
                packed[offset : offset + entry.numel].view(entry.size).copy_(value)
            elif value is not None:
                numbers.append(value.detach().reshape(()))
                places.append(offset)
            offset += entry.numel
        if numbers:  # stacked, so that hundreds of step counts are one copy to the device
            packed[torch.tensor(places, device=packed.device)] = torch.stack(numbers).to(packed.device, dtype)
        return [packed]

    def checked(self, part: Part) -> list[Tensor]:
        """What the optimizers keep so far, unpacked."""
        return [tensor for _, tensor in self.named_tensors(part, {})]

    def named_tensors(self, part: Part, names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
        """By key and parameter."""
        for entry in self._entries(part):
            value = self._state(entry).get(entry.kind.key)
            if value is not None:
                yield f'{entry.kind.key} of {names.get(entry.param, "a parameter")}', value

    def get_ready(self, part: Part) -> None:
        """Allocate state for parameters that have none yet."""
        for entry in self._entries(part):
            if self._state(entry).get(entry.kind.key) is None:
                device = torch.device('cpu') if entry.kind.on_cpu else entry.param.device
                self._new[entry.param, entry.kind.key] = torch.empty_strided(
                    entry.size, entry.stride, dtype=entry.kind.dtype, device=device
                )

    def roll_back(self) -> None:
        """Free what was allocated."""
        self._new.clear()

    @torch.no_grad()
    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Unpack everything."""
        for packed in tensors:
            entries = self._entries(part)
            numbers = [not entry.kind.like_param for entry in entries]
            pieces = packed.split([entry.numel for entry in entries])
            on_cpu = iter(
                torch.cat([p for p, n in zip(pieces, numbers, strict=True) if n]).cpu() if any(numbers) else ()
            )
            for entry, piece, is_number in zip(entries, pieces, numbers, strict=True):
                new = self._new.pop((entry.param, entry.kind.key), None)
                if new is not None:
                    self._optimizer_of[entry.param].state[entry.param][entry.kind.key] = new
                state = self._state(entry)[entry.kind.key]
                state.copy_(next(on_cpu) if is_number and entry.kind.on_cpu else piece.view(state.shape))

    def restart(self) -> None:
        """Clear everything: the momentum restart."""
        for optimizer in self.optimizers:
            optimizer.state.clear()

    def forget(self, part: Part) -> None:
        """Clear the state of a part that is dropped."""
        for p in [] if part.flat is None else part.flat.params:
            if p in self._optimizer_of:
                self._optimizer_of[p].state.pop(p, None)

    def _state(self, entry: StateEntry) -> dict[str, Any]:
        return self._optimizer_of[entry.param].state.get(entry.param, {})

    def _entries(self, part: Part) -> list[StateEntry]:
        """Everything that travels with a part, held or not."""
        if part.flat is None:
            return []
        return [
            StateEntry(p, kind, tuple(size), tuple(stride)) if kind.like_param else StateEntry(p, kind, (), ())
            for p, size, stride in part.flat.layouts()
            if p in self._optimizer_of
            for kind in self._kinds.get(self._optimizer_of[p], [])
        ]


def _kinds_of(optimizer: Optimizer) -> list[StateKind] | str:
    """What an optimizer keeps, judged by parameters of more than one element where possible; or an error."""
    kinds: dict[str, StateKind] = {}
    for p, state in optimizer.state.items():
        for key, value in state.items():
            if not isinstance(value, Tensor) or (key in kinds and p.numel() == 1):
                continue
            like_param = value.shape == p.shape
            if not like_param and value.numel() != 1:
                return (
                    f'{type(optimizer).__name__} keeps {key!r} of shape {tuple(value.shape)} for a parameter of '
                    f'shape {tuple(p.shape)}, which cannot be handed over between rounds: set '
                    'momentum_restart_interval=1'
                )
            kinds[key] = StateKind(key, like_param, value.dtype, value.device.type == 'cpu')
    return list(kinds.values())
