"""Moving averages of the weights: shadow weights that live and travel as those of the model do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resist_mm.exchange.memory import empty_flat
from resist_mm.models.flat_parameters import FlatParameters

from .part import Part, Parts, named_statistics, statistics_of
from .states import RunningStatistics, TravellingState, pack, unpack

__all__ = ['MovingAverage', 'MovingStatistics']


class MovingAverage(TravellingState):
    """A moving average of a model's weights (EMA, SWA), kept in a second model, the shadow.

    Whoever owns the shadow updates it after each iteration. Guarantees:

    - Inside a round a worker has shadow weights of the parts that it holds; those of a dropped block have no
      storage, so that an update in place changes nothing there.
    - At the end of a round the shadow weights of a part become the mean over its holders, exactly, whatever
      compresses the weights, and go to its new holders. When the model is whole the shadow is whole, and the
      same on all workers, bit for bit.
    - They are staged as the weights are: an exchange that is refused leaves them as they were.
    - Momentum restarts do not concern them.

    Until the average has begun the shadow is a copy of the model, and nothing travels.

    Args:
        model (nn.Module): The model that is trained.
        shadow (nn.Module): A copy of it, whole, with parameters of the same names; maybe on another device.
        has_begun (Callable): Says whether there is an average yet; the same on all workers.
        aliases (Mapping[str, Tensor]): More tensors that are to have the storage of the shadow's parameters, by
            their names. Defaults to none.

    Raises:
        ValueError: If a parameter has no shadow.
    """

    def __init__(
        self,
        model: nn.Module,
        shadow: nn.Module,
        has_begun: Callable[[], bool],
        aliases: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.has_begun = has_begun
        shadows = dict(shadow.named_parameters(remove_duplicate=False))
        missing = [name for name, _ in model.named_parameters() if name not in shadows]
        if missing:
            raise ValueError(f'the moving average has no parameter {missing[0]}: the model has changed since then')
        self._shadow_of = {p: shadows[name] for name, p in model.named_parameters()}
        self._aliases: dict[nn.Parameter, list[Tensor]] = {p: [] for p in shadows.values()}
        for name, alias in (aliases or {}).items():
            if name in shadows and alias is not shadows[name]:
                self._aliases[shadows[name]].append(alias)
        self._flats: dict[Part, FlatParameters] = {}
        self._new: dict[Part, Tensor] = {}  # allocated, not in use yet

    def cut(self, parts: Parts) -> None:
        """Cut the shadow as the model has been cut; to be called once, while both are whole."""
        for part in parts.all:
            if part.flat is not None:
                self._flats[part] = FlatParameters(self._shadow_of[p] for p in part.flat.params)
                self._share_storage(part)

    def travels(self, round_index: int, whole: bool) -> bool:
        """As soon as there is an average."""
        return self.has_begun()

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """One tensor, or none."""
        return [] if part.flat is None else [(self._flats[part].numel, self._flats[part].dtype)]

    def tensors(self, part: Part) -> list[Tensor]:
        """The flat storage of the shadow weights, on the device of the model."""
        return [] if part.flat is None else [self._flats[part].flat.to(part.flat.device)]

    def checked(self, part: Part) -> list[Tensor]:
        """The flat storage, wherever it is."""
        return [] if part.flat is None else [self._flats[part].flat]

    def named_tensors(self, part: Part, names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
        """By parameter."""
        for p in [] if part.flat is None else part.flat.params:
            yield f'the moving average of {names[p]}', self._shadow_of[p]

    def get_ready(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Allocate storage if the shadow is on another device; else what was received becomes its storage."""
        flat = self._flats[part]
        if part.flat is not None and flat.device != part.flat.device:
            self._new[part] = empty_flat(flat.numel, flat.dtype, flat.device)

    def get_ready_to_restart(self, part: Part) -> None:
        """Allocate storage for a part that this worker is about to regain."""
        flat = self._flats.get(part)
        if flat is not None and flat.released:
            self._new[part] = empty_flat(flat.numel, flat.dtype, flat.device)

    def roll_back(self) -> None:
        """Let go what was allocated."""
        self._new.clear()

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Put other storage in place."""
        for storage in tensors:
            on_its_device = self._new.pop(part, None)
            if on_its_device is not None:
                storage = on_its_device.copy_(storage)
            self._flats[part].replace(storage)
            self._share_storage(part)

    @torch.no_grad()
    def restart(self) -> None:
        """Copy the model: before the average begins, or if a protocol keeps it from travelling."""
        for part, flat in self._flats.items():
            if not part.held:
                continue
            if flat.released:
                flat.replace(self._new.pop(part))
                self._share_storage(part)
            assert part.flat is not None
            for p in part.flat.params:
                self._shadow_of[p].copy_(p)

    def forget(self, part: Part) -> None:
        """Give up the storage of a part that is dropped."""
        if part in self._flats:
            self._flats[part].release()
            self._share_storage(part)

    def _share_storage(self, part: Part) -> None:
        for p in self._flats[part].params:
            for alias in self._aliases[p]:
                alias.data = p.data


class MovingStatistics(RunningStatistics):
    """The running statistics of a moving average that has its own; they travel as the model's (``bn='average'``).

    Args:
        model (nn.Module): The model that is trained.
        shadow (nn.Module): A copy of it, with modules of the same names.
        has_begun (Callable): Says whether there is an average yet.
        interval (int, optional): As that of :class:`RunningStatistics`. Defaults to None: never.
    """

    def __init__(
        self, model: nn.Module, shadow: nn.Module, has_begun: Callable[[], bool], interval: int | None = None
    ) -> None:
        super().__init__(interval)
        self.has_begun = has_begun
        shadows = dict(shadow.named_modules())
        self._shadow_of = {
            norm: shadows[name] for name, norm in model.named_modules() if isinstance(norm, _NormBase)
        }

    def travels(self, round_index: int, whole: bool) -> bool:
        """With the model's, as soon as there is an average."""
        return self.has_begun() and super().travels(round_index, whole)

    def tensors(self, part: Part) -> list[Tensor]:
        """All of them, packed; on the device of the model."""
        statistics = self._statistics(part)
        return [pack(statistics).to(statistics_of(part.norms)[0].device)] if statistics else []

    def checked(self, part: Part) -> list[Tensor]:
        """The statistics, unpacked."""
        return self._statistics(part)

    def named_tensors(self, part: Part, names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
        """By norm."""
        pairs = zip(named_statistics(part.norms, names), self._statistics(part), strict=True)
        for (name, _), tensor in pairs:
            yield f'the moving average of {name}', tensor

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Unpack them."""
        for message in tensors:
            unpack(self._statistics(part), message)

    def _statistics(self, part: Part) -> list[Tensor]:
        # the model's norms say which are updating statistics: the shadow is never switched between its modes
        return [
            tensor
            for norm in part.norms
            if statistics_of([norm])
            for tensor in (self._shadow_of[norm].running_mean, self._shadow_of[norm].running_var)
        ]
