"""Whether the loss of a worker has exploded in a round."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.optim import AmpOptimWrapper
from mmengine.runner import Runner
from torch import Tensor

__all__ = ['LossWatch']

SMOOTHING = 0.5


class LossWatch:
    """Compares a worker's mean loss of a round with that of its good rounds before.

    The latter is a moving average in which the last good round counts one half. There is none in the first round;
    a resumed run continues with that of the checkpoint (:class:`ExactResumeHook`). Nothing is compared while it is
    not above 0. With a loss scaler (fp16), whose steps are skipped when gradients overflow, iterations with a loss
    that is not finite are left out as long as there are others.

    Args:
        max_ratio (float): How many times as large it may be.
    """

    def __init__(self, max_ratio: float) -> None:
        self.max_ratio = max_ratio
        self.usual: float | None = None
        self._losses: list[Tensor] = []
        self._mean = 0.0

    def see(self, outputs: Any) -> None:
        """Take the loss of an iteration from what ``train_step`` has returned.

        Raises:
            ValueError: If there is none.
        """
        loss = outputs.get('loss') if isinstance(outputs, dict) else None
        if not isinstance(loss, Tensor | int | float):
            found = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
            raise ValueError(
                "max_loss_ratio needs the loss of every iteration, as 'loss' in what train_step returns, but "
                f'that is {found}: leave max_loss_ratio out'
            )
        self._losses.append(torch.as_tensor(loss).detach().float().mean())

    def complaint(self, runner: Runner) -> str:
        """What is wrong with the round that ends now; '' if nothing is."""
        if not self._losses:
            return ''
        losses = torch.stack(self._losses)  # kept: the exchange may be refused and tried again
        finite = losses.isfinite()
        if isinstance(runner.optim_wrapper, AmpOptimWrapper) and runner.optim_wrapper.loss_scaler.is_enabled():
            losses = losses[finite] if finite.any() else losses
        self._mean = losses.mean().item()
        if not losses.isfinite().all():
            return f'a loss of {self._mean} (max_loss_ratio={self.max_ratio})'
        if self.usual is not None and self.usual > 0 and self._mean > self.max_ratio * self.usual:
            return (
                f'a mean loss of {self._mean:.4g}, {self._mean / self.usual:.1f} times the usual {self.usual:.4g} '
                f'(max_loss_ratio={self.max_ratio})'
            )
        return ''

    def end_round(self, counts: bool) -> None:
        """The exchange was accepted; if the round counts, its loss is part of the usual one."""
        self._losses = []
        if not counts:
            return
        self.usual = self._mean if self.usual is None else self.usual + SMOOTHING * (self._mean - self.usual)
