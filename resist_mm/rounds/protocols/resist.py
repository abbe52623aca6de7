"""ResIST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from resist_mm.partition import Assignment, PartitionSampler, check_hands, hands_for

from ..arguments import check_count, check_integer, is_number
from ..part import Parts
from .stepped import SteppedProtocol

__all__ = ['ResIST']


class ResIST(SteppedProtocol):
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
        outer (dict, optional): A step of SGD on the mean of the shared part, which costs no byte, and on demand on
            those of blocks; see :class:`OuterStep`. Defaults to None: the mean.
        blocks (str or Sequence[int], optional): How many blocks each worker holds, where workers are not equally
            fast. 'by_speed': as many as make the slowest iteration as short as possible, but at least
            ``min_blocks``; the workers measure and agree every ``speed_interval`` rounds, and until the first time
            hands are equal. A list has the number of each worker, such as ``[8, 6, 5, 3]``; without ``min_blocks``
            they may be as small as 0. Defaults to None: equal hands.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> ResIST(min_blocks=2, blocks='by_speed').hands_by_speed
        True
    """

    def __init__(
        self,
        min_blocks: int | None = None,
        warmup_rounds: int = 0,
        activation_scale: float | None = None,
        seed: int | None = None,
        outer: Mapping[str, Any] | None = None,
        blocks: str | Sequence[int] | None = None,
    ) -> None:
        super().__init__(outer)
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
        self.hands_by_speed = isinstance(blocks, str) and blocks == 'by_speed'
        if not (self.hands_by_speed or blocks is None or _are_counts(blocks)):
            raise ValueError(
                f"ResIST.blocks must be 'by_speed', a list with the number of blocks of each worker, or None for "
                f'equal hands, got {blocks!r}'
            )
        self.blocks = blocks
        self._given: Sequence[int] | None = None if self.hands_by_speed else blocks  # type: ignore[assignment]

    def set_up(self, parts: Parts, num_workers: int) -> None:
        """Make the sampler, and set the activation scale.

        Raises:
            ValueError: If the model has no partitioned stage, or too few blocks for ``min_blocks``.
        """
        super().set_up(parts, num_workers)
        if not parts.num_blocks:
            raise ValueError('ResIST deals out the blocks of a partitioned stage, but the model has none')
        self.sampler = PartitionSampler(parts.num_blocks, num_workers, self.min_blocks, self.seed or 0)
        if self._given is not None:
            check_hands('ResIST.blocks', self._given, parts.num_blocks, num_workers, self.min_blocks or 0)
        parts.set_scale(self.scale)

    def set_workers(self, left: Sequence[int]) -> None:
        """Deal to those that are left; the activation scale follows.

        Given hands stay, unless there are blocks then that nobody would hold: these go to workers in proportion to
        their hands.
        """
        super().set_workers(left)
        least, num_blocks = self.sampler.min_blocks, self.parts.num_blocks
        if self._given is not None:
            self._given = [self._given[rank] for rank in left]
            if sum(self._given) < num_blocks:
                self._given = hands_for([1 / (hand or 0.5) for hand in self._given], 0, num_blocks, least)
        self.sampler = PartitionSampler(num_blocks, self.num_workers, self.min_blocks, self.seed or 0)
        self.parts.set_scale(self.scale)

    @property
    def scale(self) -> float:
        """The activation scale of the whole model."""
        if self.activation_scale is not None:
            return self.activation_scale
        if self._given is not None:
            return sum(self._given) / (self.num_workers * self.parts.num_blocks)
        return self.sampler.share

    @property
    def hands(self) -> list[int]:
        """How many blocks each worker holds after the warm-up, by rank; equal hands are dealt in any order."""
        return self._unequal_hands() or self.sampler.blocks_per_worker

    def assign(self, round_index: int) -> Assignment:
        """Deal the blocks; in a warm-up round every worker holds all of them."""
        if round_index < self.warmup_rounds:
            return Assignment.full(self.num_workers, self.parts.num_blocks)
        return self.sampler.sample(round_index, self._unequal_hands())

    def _unequal_hands(self) -> list[int] | None:
        if self._given is not None:
            return list(self._given)
        speeds = self.speeds.current if self.speeds is not None and self.hands_by_speed else None
        return None if speeds is None else speeds.hands(self.parts.num_blocks, self.sampler.min_blocks)


def _are_counts(blocks: object) -> bool:
    are_integers = isinstance(blocks, list | tuple) and all(
        isinstance(of_worker, int) and not isinstance(of_worker, bool) and of_worker >= 0 for of_worker in blocks
    )
    return are_integers and len(blocks) > 0  # type: ignore[arg-type]
