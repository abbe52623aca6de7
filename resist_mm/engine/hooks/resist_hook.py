"""ResIST."""

from __future__ import annotations

from typing import Any

from mmengine.runner import Runner

from resist_mm.partition import Assignment, PartitionSampler
from resist_mm.registry import HOOKS

from ..worker_rounds import WorkerRounds
from .round_hook import RoundHook

__all__ = ['ResISTHook']


@HOOKS.register_module()
class ResISTHook(RoundHook):
    """ResIST: every worker trains a shallow sub-ResNet, dealt anew every round.

    Dun et al., "ResIST: Layer-Wise Decomposition of ResNets for Distributed
    Training", UAI 2022, arXiv:2107.00961, Algorithm 1. The model needs a
    partitioned stage: a backbone ``resist_mm.PartitionableResNet`` or
    ``resist_mm.PreActResNet``.

    Args:
        min_blocks (int, optional): Least number of partitioned blocks of a worker;
            with many workers blocks are shared (Sec. 2.6, "Subnetwork depth").
            The paper: 5 on CIFAR, 10 on ImageNet. Defaults to None: the smaller
            of 5 and the number of partitioned blocks.
        warmup_rounds (int): Number of rounds of local SGD on the whole, scaled
            model before ResIST begins (Sec. 2.6, "Local SGD warm-up phase").
            Defaults to 0.
        activation_scale (float, optional): Factor of the residual branches of the
            partitioned blocks in the whole model (Sec. 2.6, "Scaling
            activations"); it becomes part of the weights. Defaults to None: the
            share of the blocks that a worker holds, 1 / workers without sharing.
        **kwargs: Arguments of :class:`RoundHook`.

    Raises:
        ValueError: If an argument is out of range; at the start of training, if
            the model has no partitioned stage or too few blocks for ``min_blocks``.

    Example:
        >>> custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=50)]
        >>> model_wrapper_cfg = dict(type='resist_mm.LocalModel')
    """

    def __init__(
        self,
        min_blocks: int | None = None,
        warmup_rounds: int = 0,
        activation_scale: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._check_counts(least=0, warmup_rounds=warmup_rounds, min_blocks=min_blocks or 0)
        if activation_scale is not None and not (
            isinstance(activation_scale, int | float) and 0 < activation_scale <= 1
        ):
            raise ValueError(
                f'ResISTHook.activation_scale must be above 0 and at most 1, got {activation_scale!r}'
            )
        self.min_blocks = min_blocks
        self.warmup_rounds = warmup_rounds
        self.activation_scale = activation_scale

    def set_up_protocol(self, runner: Runner, rounds: WorkerRounds) -> None:
        """Make the sampler and set the activation scale."""
        num_blocks = rounds.worker.num_blocks
        if num_blocks == 0:
            raise ValueError(
                'ResISTHook deals out the blocks of a partitioned stage, but the model has none: use '
                "type='resist_mm.PartitionableResNet' or 'resist_mm.PreActResNet' for model.backbone"
            )
        assert self.seed is not None
        try:
            self.sampler = PartitionSampler(num_blocks, rounds.num_workers, self.min_blocks, self.seed)
        except ValueError as error:
            raise ValueError(f'ResISTHook: {error}') from None
        scale = self.sampler.share if self.activation_scale is None else self.activation_scale
        rounds.worker.set_scale(scale)
        runner.logger.info(
            f'ResIST: {rounds.num_workers} workers train sub-ResNets with {self.sampler.hand_sizes} of '
            f'{num_blocks} partitioned blocks, {self.local_iters} iterations a round; activation scale '
            f'{scale:.4g}'
        )
        if rounds.num_workers > 1 and self.sampler.sample(self.warmup_rounds).is_full:
            runner.logger.warning(
                f'every worker holds every partitioned block (min_blocks={self.sampler.min_blocks} of '
                f'{num_blocks}): this is local SGD. Choose a smaller min_blocks or a deeper network'
            )
        self._everything = Assignment.full(rounds.num_workers, num_blocks)

    def assign(self, round_index: int) -> Assignment:
        """Deal the blocks; in a warm-up round everybody has them all."""
        if round_index < self.warmup_rounds:
            return self._everything
        return self.sampler.sample(round_index)
