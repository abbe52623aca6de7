"""Local SGD."""

from __future__ import annotations

from mmengine.runner import Runner

from resist_mm.partition import Assignment
from resist_mm.registry import HOOKS

from ..worker_rounds import WorkerRounds
from .round_hook import RoundHook

__all__ = ['LocalSGDHook']


@HOOKS.register_module()
class LocalSGDHook(RoundHook):
    """Local SGD: every worker trains the whole model, which is averaged once a round.

    It is the case of :class:`RoundHook` in which every worker holds every block;
    any model will do (with a ``train_step`` of its own, set ``bn='average'``). The
    baseline of ResIST (Sec. 2.4): Lin et al., "Don't Use Large Mini-Batches, Use
    Local SGD", ICLR 2020, arXiv:1808.07217. With a partitioned stage, the activation
    scale stays what the weights say: 1 from scratch.

    Args:
        **kwargs: Arguments of :class:`RoundHook`.

    Example:
        >>> custom_hooks = [dict(type='resist_mm.LocalSGDHook', local_iters=50)]
        >>> model_wrapper_cfg = dict(type='resist_mm.LocalModel')
    """

    deals_blocks = False

    def set_up_protocol(self, runner: Runner, rounds: WorkerRounds) -> None:
        """Every worker holds every block in every round."""
        self._everything = Assignment.full(rounds.num_workers, num_blocks=0)

    def assign(self, round_index: int) -> Assignment:
        """Everything to everybody."""
        return self._everything
