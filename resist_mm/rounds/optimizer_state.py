"""The state of the optimizers, such as momentum, as something that travels."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .optimizer_kinds import Kinds, StateKind, kinds_of, merge
from .part import Part
from .states import TravellingState

__all__ = ['OptimizerState']


class StateEntry(NamedTuple):
    """Something that an optimizer keeps for one parameter.

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

    What travels with a parameter is tensors of its shape (SGD's ``momentum_buffer``, Adam's ``exp_avg``) and
    single numbers (``step``), as tensors or plain; the mean of whole numbers is rounded.

    Args:
        optimizers (Optimizer or Sequence[Optimizer]): All optimizers of the run.
        restart_interval (int, optional): Number of rounds after which the state is cleared; between
            restarts it travels. None: it is never cleared. Defaults to 1: it never travels.
        own (Collection[nn.Parameter]): Parameters whose state each worker keeps for itself: it neither travels
            nor is cleared by that restart, but when the model has become whole. Defaults to ().
    """

    makes_copies = True

    def __init__(
        self,
        optimizers: Optimizer | Sequence[Optimizer],
        restart_interval: int | None = 1,
        own: Collection[nn.Parameter] = (),
    ) -> None:
        self.optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.restart_interval = restart_interval
        self._own = set(own)
        self._index_of = {
            p: i
            for i, optimizer in enumerate(self.optimizers)
            for group in optimizer.param_groups
            for p in group['params']
        }
        self._optimizer_of = {p: self.optimizers[i] for p, i in self._index_of.items()}
        self._kinds: Kinds = {}
        # made before a commit, not in use yet
        self._new: dict[tuple[nn.Parameter, str], Tensor] = {}
        self._numbers: dict[Part, list[float]] = {}

    def travels(self, round_index: int, whole: bool) -> bool:
        """Whether it travels: always, unless the optimizers restart after this round."""
        return self.restart_interval is None or (round_index + 1) % self.restart_interval != 0

    def prepare(self) -> Kinds | str | None:
        """Find out what the optimizers keep.

        A worker that has not taken a step yet (because of a loss scale that is still too
        large, or accumulated gradients) could not find out alone.

        Returns:
            Kinds, str or None: What is new, or an error, for the other workers.
        """
        found = kinds_of(self.optimizers)
        if isinstance(found, str):
            return found
        known = self._kinds
        is_new = any(
            known.get(place, {}).get(key) != kind for place, of in found.items() for key, kind in of.items()
        )
        return found if is_new else None

    def learn(self, told: Sequence[Kinds | str | None]) -> None:
        """Take note of what optimizers keep on any worker.

        Raises:
            ValueError: On all workers, if an optimizer of one of them keeps something that cannot be handed over.
        """
        self._kinds = merge(self._kinds, [found or {} for found in told])

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
                numbers.append(torch.as_tensor(value, dtype=entry.kind.dtype).detach().reshape(()))
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
                yield f'{entry.kind.key} of {names.get(entry.param, "a parameter")}', torch.as_tensor(value)

    def get_ready(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Allocate state for parameters that have none yet, and fetch single numbers from the device."""
        entries = self._entries(part)
        for packed in tensors:
            pieces = packed.split([entry.numel for entry in entries])
            numbers = [piece for piece, entry in zip(pieces, entries, strict=True) if not entry.kind.like_param]
            self._numbers[part] = torch.cat(numbers).tolist() if numbers else []
        for entry in entries:
            if entry.kind.plain is None and self._state(entry).get(entry.kind.key) is None:
                device = torch.device('cpu') if entry.kind.on_cpu else entry.param.device
                self._new[entry.param, entry.kind.key] = torch.empty_strided(
                    entry.size, entry.stride, dtype=entry.kind.dtype, device=device
                )

    def roll_back(self) -> None:
        """Free what was made."""
        self._new.clear()
        self._numbers.clear()

    @torch.no_grad()
    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Unpack everything."""
        numbers = iter(self._numbers.pop(part, ()))
        for packed in tensors:
            entries = self._entries(part)
            for entry, piece in zip(entries, packed.split([entry.numel for entry in entries]), strict=True):
                state = self._optimizer_of[entry.param].state[entry.param]
                new = self._new.pop((entry.param, entry.kind.key), None)
                if new is not None:
                    state[entry.kind.key] = new
                if entry.kind.like_param:
                    value = state[entry.kind.key]
                    value.copy_(piece.view(value.shape))
                elif entry.kind.plain is None:
                    state[entry.kind.key].fill_(next(numbers))
                else:
                    number = next(numbers)
                    state[entry.kind.key] = entry.kind.plain(
                        number if entry.kind.plain is float else round(number)
                    )

    def restart(self) -> None:
        """Clear everything but what is this worker's own: the momentum restart."""
        for optimizer in self.optimizers:
            for p in [p for p in optimizer.state if p not in self._own]:
                del optimizer.state[p]

    def restart_own(self) -> None:
        """Clear what is this worker's own, such as after a round that does not count. Must not fail."""
        for p in self._own:
            if p in self._optimizer_of:
                self._optimizer_of[p].state.pop(p, None)

    def become_whole(self) -> None:
        """Clear what is this worker's own: a checkpoint has the state of one worker, for all of them."""
        self.restart_own()

    def forget(self, part: Part) -> None:
        """Clear the state of a part that is dropped."""
        for p in part.params:
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
            if p in self._optimizer_of and p not in self._own
            for _, kind in sorted(self._kinds.get((self._index_of[p], p.dtype), {}).items())
        ]
