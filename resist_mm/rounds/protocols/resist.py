"""ResIST."""

from __future__ import annotations

from resist_mm.partition import Assignment, PartitionSampler

from ..arguments import check_count, check_integer, is_number
from ..part import Parts
from .protocol import RoundProtocol

__all__ = ['ResIST']


class ResIST(RoundProtocol):
    """Every worker trains a shallow sub-ResNet, dealt anew every round (Algorithm 1).

    Args:
        min_blocks (int, optional): Least number of partitioned blocks of a worker (Sec. 2.6, "Subnetwork
            depth"). Defaults to None: the smaller of 5 and the number of partitioned blocks.
        warmup_rounds (int): Rounds of local SGD on the whole, scaled model before ResIST begins (Sec. 2.6, "Local
            SGD warm-up phase"). Defaults to 0.
        activation_scale (float, optional): Factor of the residual branches of partitioned blocks in the whole
            model (Sec. 2.6, "Scaling activations"). Defaults to None: the share of the blocks that a worker
            holds.
        seed (int, optional): Seed of the partition. Defaults to None: that of the run, or 0 without hooks.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        min_blocks: int | None = None,
        warmup_rounds: int = 0,
        activation_scale: float | None = None,
        seed: int | None = None,
    ) -> None:
        if min_blocks is not None:
            check_count('ResIST.min_blocks', min_blocks, least=0)
        check_count('ResIST.warmup_rounds', warmup_rounds, least=0)
        if activation_scale is not None and not (is_number(activation_scale) and 0 < activation_scale <= 1):
            raise ValueError(
                f'ResIST.activation_scale must be a number above 0 and at most 1, got {activation_scale!r}'
            )
        if seed is not None:
            check_integer('ResIST.seed', seed)
        self.min_blocks = min_blocks
        self.warmup_rounds = warmup_rounds
        self.activation_scale = activation_scale
        self.seed = seed

    def set_up(self, parts: Parts, num_workers: int) -> None:
        """Make the sampler, and set the activation scale.

        Raises:
            ValueError: If the model has no partitioned stage, or too few blocks for ``min_blocks``.
        """
        super().set_up(parts, num_workers)
        if not parts.num_blocks:
            raise ValueError('ResIST deals out the blocks of a partitioned stage, but the model has none')
        self.set_workers(num_workers)

    def set_workers(self, num_workers: int) -> None:
        """Deal to so many workers from now on; the activation scale follows."""
        super().set_workers(num_workers)
        self.sampler = PartitionSampler(self.parts.num_blocks, num_workers, self.min_blocks, self.seed or 0)
        self.parts.set_scale(self.scale)

    @property
    def scale(self) -> float:
        """The activation scale of the whole model."""
        return self.sampler.share if self.activation_scale is None else self.activation_scale

    def assign(self, round_index: int) -> Assignment:
        """Deal the blocks; in a warm-up round every worker holds all of them."""
        if round_index < self.warmup_rounds:
            return Assignment.full(self.num_workers, self.parts.num_blocks)
        return self.sampler.sample(round_index)
