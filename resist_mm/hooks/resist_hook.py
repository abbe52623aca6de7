"""ResIST."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner

from resist_mm.registry import HOOKS
from resist_mm.rounds import ResIST

from .round_hook import RoundHook

__all__ = ['ResISTHook']


@HOOKS.register_module()
class ResISTHook(RoundHook):
    """ResIST: every worker trains a shallow sub-ResNet, dealt anew every round.

    Dun et al., "ResIST: Layer-Wise Decomposition of ResNets for Distributed
    Training", UAI 2022, arXiv:2107.00961, Algorithm 1. The model needs a
    partitioned stage: a backbone ``resist_mm.PartitionableResNet`` or
    ``resist_mm.PreActResNet``, or any model built by ``resist_mm.Partitioned``,
    which the option ``--resist`` of ``tools/train.py`` puts into a config.

    Args:
        min_blocks (int, optional): Minimum number of partitioned blocks of a worker;
            with many workers blocks are shared (Sec. 2.6, "Subnetwork depth").
            The paper uses 5 on CIFAR and 10 on ImageNet. Defaults to None: the
            smaller of 5 and the number of partitioned blocks.
        warmup_rounds (int): Number of rounds of local SGD on the whole, scaled
            model before ResIST begins (Sec. 2.6, "Local SGD warm-up phase").
            Defaults to 0.
        activation_scale (float, optional): Factor of the residual branches of the
            partitioned blocks in the whole model (Sec. 2.6, "Scaling
            activations"); it becomes part of the weights. Defaults to None: the
            share of the blocks that a worker holds, 1 / workers if no block is shared.
        outer (dict, optional): A step of SGD on the mean of the shared part, which costs no byte:
            ``dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)``; with ``blocks=True`` also on those of
            blocks, with which its momentum travels. See :class:`OuterStep`. Defaults to None: the mean.
        blocks (str or list[int], optional): How many blocks each worker holds, where workers are not equally
            fast. 'by_speed': as many as make the slowest iteration as short as possible, but at least
            ``min_blocks``; the workers measure, and agree every ``speed_interval`` rounds. Or a list with the
            number of each worker, such as ``[8, 6, 5, 3]``. Defaults to None: equal hands.
        **kwargs: Those of :class:`RoundOptions`, except ``protocol``. ``bad_numbers``, ``max_bad_rounds`` and
            ``max_loss_ratio`` say what happens to a worker whose numbers are not finite, or whose loss explodes.

    Raises:
        ValueError: If an argument is out of range; at the start of training, if
            the model has no partitioned stage or too few blocks for ``min_blocks``.

    Example:
        >>> custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50)]
        >>> model_wrapper_cfg = dict(type='resist_mm.LocalModel')
    """

    protocol: ResIST

    def __init__(
        self,
        min_blocks: int | None = None,
        warmup_rounds: int = 0,
        activation_scale: float | None = None,
        outer: dict | None = None,
        blocks: str | list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(ResIST(min_blocks, warmup_rounds, activation_scale, outer=outer, blocks=blocks), **kwargs)

    def announce(self, runner: Runner) -> None:
        """Log how the blocks are dealt out."""
        assert self.engine is not None
        protocol, num_blocks = self.protocol, self.engine.parts.num_blocks
        runner.logger.info(
            f'ResIST: {self.engine.num_workers} workers train sub-ResNets with '
            f'{protocol.hands} of {num_blocks} partitioned blocks, '
            f'{self.local_iters} iterations a round; activation scale {protocol.scale:.4g}'
        )
        if self.engine.num_workers > 1 and protocol.assign(protocol.warmup_rounds).is_full:
            runner.logger.warning(
                f'every worker holds every partitioned block (min_blocks={protocol.sampler.min_blocks} of '
                f'{num_blocks}): this is local SGD. Choose a smaller min_blocks or a deeper network'
            )
