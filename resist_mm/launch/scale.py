"""The scale of the learning rate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from ..config_hooks import ROUND_HOOKS

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['scale_lr_by_one_worker']


def scale_lr_by_one_worker(runner: Runner) -> None:
    """Let ``auto_scale_lr`` of a run in rounds count the batch of one worker; to be called before training.

    mmengine multiplies the learning rate by the batch of all workers, as their gradients are averaged, over
    ``base_batch_size``. In rounds every worker takes steps of its own, of its own batch, and what is averaged is
    parameters: the rate belongs to the batch of one worker. Without a hook of rounds nothing changes.

    Args:
        runner (Runner): Of the run; it tells by which factor it scales, and this tells why.
    """
    protocols = [
        type(hook).__name__
        for hook in runner.hooks
        if any(cls.__name__ in ROUND_HOOKS for cls in type(hook).__mro__)
    ]
    if not protocols:
        return
    scale_lr = runner.scale_lr

    def scale_by_one(optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
        if auto_scale_lr is not None and auto_scale_lr.get('enable', False):
            runner.logger.info(
                f'auto_scale_lr under {protocols[0]}: workers average parameters, not gradients, so that the '
                f'learning rate is scaled by the batch of one worker, not by that of all {runner.world_size}'
            )
        with patch.object(runner, '_world_size', 1):
            scale_lr(optim_wrapper, auto_scale_lr)

    runner.scale_lr = scale_by_one
