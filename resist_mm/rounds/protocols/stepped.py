"""Protocols that may take an outer step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..outer_step import OuterStep
from ..part import Part, Parts
from .protocol import RoundProtocol

__all__ = ['SteppedProtocol']


class SteppedProtocol(RoundProtocol):
    """A protocol whose means may be followed by a step of SGD: :class:`OuterStep` says what it does.

    Args:
        outer (dict, optional): ``dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)``, the values of DiLoCo;
            with ``blocks=True`` also for blocks that are dealt out. Defaults to None: means are taken as they are.

    Raises:
        ValueError: If ``outer`` has another type, or a value out of range.
    """

    outer: Mapping[str, Any] | None = None
    _step: OuterStep | None = None

    def __init__(self, outer: Mapping[str, Any] | None = None) -> None:
        if outer is not None:
            self._step = OuterStep.of(outer)
            self.outer = dict(outer)
            self.needs_reference = True

    @property
    def changes_means(self) -> bool:
        """With an outer step, or if a subclass has its own."""
        return self._step is not None or type(self).on_mean is not SteppedProtocol.on_mean

    def set_up(self, parts: Parts, num_workers: int) -> None:
        """Prepare for a model."""
        super().set_up(parts, num_workers)
        if self._step is not None:
            self._step.set_up(parts, lambda round_index: self.assign(round_index).is_full)
            if self._step.blocks and self._step.momentum and parts.num_blocks:
                self.states = [*self.states, self._step]

    def set_workers(self, left: Sequence[int]) -> None:
        """Go on with fewer workers."""
        super().set_workers(left)
        if self._step is not None:
            self._step.lose_workers()

    def on_mean(self, part: Part, mean: Tensor) -> None:
        """Take the outer step."""
        if self._step is not None:
            self._step.on_mean(part, mean)

    def commit(self) -> None:
        """Keep its momentum."""
        if self._step is not None:
            self._step.accept()

    def roll_back(self) -> None:
        """Forget it."""
        if self._step is not None:
            self._step.roll_back()

    def state_dict(self) -> dict[str, Any]:
        """Its momentum, if there is an outer step."""
        return {} if self._step is None else dict(outer=self._step.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the momentum; from a run without an outer step, begin with none.

        Raises:
            ValueError: If it is that of other parts.
        """
        if self._step is not None and 'outer' in state:
            self._step.load_state_dict(state['outer'])
