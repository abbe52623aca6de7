"""Local SGD."""

from __future__ import annotations

from typing import Any

from resist_mm.registry import HOOKS
from resist_mm.rounds import LocalSGD

from .round_hook import RoundHook

__all__ = ['LocalSGDHook']


@HOOKS.register_module()
class LocalSGDHook(RoundHook):
    """Local SGD: every worker trains the whole model, which is averaged once a round.

    The baseline of ResIST (Sec. 2.4): Lin et al., "Don't Use Large Mini-Batches, Use
    Local SGD", ICLR 2020, arXiv:1808.07217. Works with any model; one with a custom
    ``train_step`` needs ``bn='average'``. In a partitioned stage the activation scale
    is not changed: it is that of the weights, or 1 from scratch.

    Args:
        outer (dict, optional): A step of SGD on each mean, which makes it DiLoCo (arXiv:2311.08105):
            ``dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)``. See :class:`OuterStep`. Defaults to None:
            the mean.
        **kwargs: Those of :class:`RoundOptions`, except ``protocol``. ``bad_numbers``, ``max_bad_rounds`` and
            ``max_loss_ratio`` say what happens to a worker whose numbers are not finite, or whose loss explodes.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=50)]
        >>> model_wrapper_cfg = dict(type='resist_mm.LocalModel')
    """

    def __init__(self, outer: dict | None = None, **kwargs: Any) -> None:
        super().__init__(LocalSGD(outer), **kwargs)
