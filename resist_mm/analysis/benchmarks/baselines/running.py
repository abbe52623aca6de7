"""A method that trains a model on this worker, and the same in rounds of this package's engine."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ....builders import build_codec
from ....rounds import Engine, LocalSGD, ResIST, RoundProtocol
from .costs import Pace

__all__ = ['Batch', 'Rounds', 'Running', 'Setup', 'loss_of']

Batch = Mapping[str, Any]


@dataclass
class Setup:
    """What every method starts from.

    Attributes:
        model: The same on all workers.
        optimizer: Of its parameters.
        pace: When something happens.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    pace: Pace


def loss_of(model: nn.Module, forward: Callable[..., Any], batch: Batch) -> Tensor:
    """The loss of a batch of training images; ``forward`` is the model or a wrapper of it."""
    data = model.data_preprocessor(batch, True)  # type: ignore[operator]
    return forward(**data, mode='loss')['loss']


class Running(ABC):
    """A method that trains a model. All workers must call the same methods in the same order.

    Seconds are put together from *costs*, see :mod:`.costs`, each of which can be timed alone.

    Args:
        setup (Setup): The model and its optimizer.
    """

    alone: Mapping[str, Callable[[Batch], None]] = {}
    """By cost: how to do nothing else. Only costs that no other timed method has under this name."""

    iterations_before = 1
    """How many iterations there have to be before costs can be timed."""

    def __init__(self, setup: Setup) -> None:
        self.setup, self.model, self.optimizer = setup, setup.model, setup.optimizer

    @abstractmethod
    def iterate(self, index: int, batch: Batch, whole: bool) -> None:
        """Iteration ``index``, from 0, with all its communication; ``whole``: the whole model is wanted then."""

    def compute(self, batch: Batch, forward: Callable[..., Any] | None = None) -> None:
        """Forward, backward and optimizer step."""
        self.optimizer.zero_grad()
        loss_of(self.model, forward or self.model, batch).backward()
        self.optimizer.step()


class Rounds(Running):
    """Local SGD, DiLoCo or ResIST by the engine, with the defaults of the hooks: momentum restarts every round.

    Args:
        setup (Setup): The model and its optimizer.
        name (str): Of the method.
        deals (bool): Whether blocks are dealt out.
        outer (dict, optional): The outer step. Defaults to None.
        codec (dict, optional): How messages are compressed. Defaults to None: fp32.
    """

    def __init__(
        self, setup: Setup, name: str, deals: bool, outer: dict | None = None, codec: dict | None = None
    ) -> None:
        super().__init__(setup)
        protocol: RoundProtocol = ResIST(min_blocks=0, outer=outer) if deals else LocalSGD(outer)
        self.engine = Engine(setup.model, setup.optimizer, protocol, build_codec(codec))
        alone: dict[str, Callable[[Batch], None]] = {}
        if not (outer or codec):
            alone['sub-ResNet' if deals else 'local'] = self._compute_in_round
        alone[f'exchange {name}'] = lambda batch: self.exchange()
        if deals or codec:  # if not, every exchange is the same
            alone[f'whole {name}'] = self._exchange_whole
        self.alone = alone

    def iterate(self, index: int, batch: Batch, whole: bool) -> None:
        """One iteration, and at the end of a round the exchange."""
        self._compute_in_round(batch)
        if whole or (index + 1) % self.setup.pace.local_iters == 0:
            self.exchange(whole)

    def exchange(self, whole: bool = False) -> None:
        """End the round."""
        self.engine.exchange(whole)

    def _compute_in_round(self, batch: Batch) -> None:
        self._begin()
        self.compute(batch)

    def _exchange_whole(self, batch: Batch) -> None:
        self.exchange(whole=True)
        self._begin()  # without a message

    def _begin(self) -> None:
        if self.engine.in_sync:
            self.engine.begin_round()
