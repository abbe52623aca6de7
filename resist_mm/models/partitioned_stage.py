"""The chain of residual blocks that can drop and regain blocks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.model import Sequential
from torch import Tensor, nn

from .flat_parameters import FlatParameters

__all__ = ['BlockAnatomy', 'PartitionedStage', 'partition_stages_of', 'partitioned_stages']


@dataclass(frozen=True)
class BlockAnatomy:
    """Where the parts of a residual block are; one for each kind of block.

    Attributes:
        residual_end: Returns the module whose output is added to the shortcut.
        shared: Returns the modules that stay when the block is dropped: those of
            a projection shortcut.
        skip: Computes the output of a block without its residual branch.
    """

    residual_end: Callable[[Any], nn.Module]
    shared: Callable[[Any], Sequence[nn.Module]]
    skip: Callable[[Any, Tensor], Tensor]


class PartitionedStage(Sequential):
    """A stage of residual blocks that are dealt out to workers (Sec. 2.2).

    Parameters are named as in a plain ``nn.Sequential`` of the same blocks. A
    dropped block is its shortcut: it computes nothing and its residual branch has
    no storage, no gradient; its small BatchNorm buffers stay. Parameters that do
    not require a gradient stay as well: they never change.

    The stage is either the whole model's, then every block is there and the
    residual branch of every partitioned block is multiplied by the buffer
    ``scale`` (Sec. 2.6, "Scaling activations"), or a sub-ResNet's, then the
    factor is 1. A new stage is whole and its ``scale`` 1: a plain stage.

    Args:
        blocks (Sequence[nn.Module]): The residual blocks, in order.
        anatomy (BlockAnatomy): Where their parts are.
        partition_first (bool): Whether the first, usually strided block is
            partitioned too. The paper shares it (Fig. 6). Defaults to False.

    Raises:
        ValueError: If no block is left to partition.
    """

    scale: Tensor

    def __init__(self, blocks: Sequence[nn.Module], anatomy: BlockAnatomy, partition_first: bool = False) -> None:
        super().__init__(*blocks)
        first = 0 if partition_first else 1
        if len(self) <= first:
            raise ValueError(
                f'a partitioned stage needs at least {first + 1} blocks, got {len(self)}: '
                'its first block is shared by all workers. Choose a deeper network or another stage '
                '(partition_stages)'
            )
        self.anatomy = anatomy
        self.first_partitioned = first
        self.register_buffer('scale', torch.ones(()))
        self._held = frozenset(range(self.num_partitioned))
        # read where torch.compile traces, so a plain bool: each set of blocks held would be a graph of its own
        self._scaled = True
        self._flats: dict[int, FlatParameters] = {}
        for block in self.partitioned_blocks:
            anatomy.residual_end(block).register_forward_hook(self._scale_residual)

    @property
    def partitioned_blocks(self) -> list[nn.Module]:
        """The blocks that are dealt out; their places here are their numbers."""
        return list(self.children())[self.first_partitioned :]

    @property
    def num_partitioned(self) -> int:
        """Number of partitioned blocks."""
        return len(self) - self.first_partitioned

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole model's stage, not a sub-ResNet's."""
        return self._scaled

    @property
    def held(self) -> frozenset[int]:
        """The numbers of the partitioned blocks that are there."""
        return self._held

    def block_parameters(self, number: int) -> list[nn.Parameter]:
        """The trainable parameters that a block's holder alone has."""
        block = self.partitioned_blocks[number]
        shared = {id(p) for module in self.anatomy.shared(block) for p in module.parameters()}
        return [p for p in block.parameters() if p.requires_grad and id(p) not in shared]

    def block_buffers(self, number: int) -> list[Tensor]:
        """The buffers of a block's residual branch (BatchNorm statistics)."""
        block = self.partitioned_blocks[number]
        shared = {id(b) for module in self.anatomy.shared(block) for b in module.buffers()}
        return [b for b in block.buffers() if id(b) not in shared]

    def flat_block(self, number: int) -> FlatParameters:
        """A block's trainable parameters as one flat tensor, made at the first call.

        Raises:
            ValueError: If the block has no trainable parameters.
        """
        if number not in self._flats:
            params = self.block_parameters(number)
            if not params:
                raise ValueError(
                    f'partitioned block {number} has no trainable parameters: '
                    'do not freeze a partitioned stage (frozen_stages)'
                )
            self._flats[number] = FlatParameters(params)
        return self._flats[number]

    def hold(self, numbers: Collection[int]) -> None:
        """Become the stage of a sub-ResNet: drop all other partitioned blocks.

        Raises:
            ValueError: If a block in ``numbers`` is not there.
        """
        missing = set(numbers) - self.held
        if missing:
            raise ValueError(f'blocks {sorted(missing)} were dropped: regain them first')
        for number in self.held - set(numbers):
            self.flat_block(number).release()
        self._held = frozenset(numbers)
        self._scaled = False

    def regain(self, number: int, storage: Tensor | None = None) -> Tensor:
        """Give a dropped block its storage back.

        Args:
            number (int): The block.
            storage (Tensor, optional): Flat storage with its values. Defaults to None: new storage with
                undefined values.

        Returns:
            Tensor: The block's flat storage.
        """
        flat = self.flat_block(number)
        storage = flat.allocate() if storage is None else flat.replace(storage)
        self._held = self.held | {number}
        return storage

    def make_whole(self) -> None:
        """Become the whole model's stage: residual branches are scaled from now on.

        Raises:
            RuntimeError: If a block is still dropped.
        """
        missing = set(range(self.num_partitioned)) - self.held
        if missing:
            raise RuntimeError(f'blocks {sorted(missing)} are dropped: a whole stage needs them all')
        self._scaled = True

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks that are there; shape (N, C, H, W) in and out."""
        for place, block in enumerate(self):
            number = place - self.first_partitioned
            is_there = self._scaled or number < 0 or number in self._held
            x = block(x) if is_there else self.anatomy.skip(block, x)
        return x

    def _scale_residual(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return output * self.scale if self._scaled else None

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any, **kwargs: Any) -> None:
        # the weights of a plain backbone have no scale, which means 1; those of another part say nothing about it
        if any(key.startswith(prefix) for key in state_dict):
            state_dict.setdefault(f'{prefix}scale', torch.ones_like(self.scale))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def partitioned_stages(model: nn.Module) -> dict[str, PartitionedStage]:
    """The partitioned stages of a model by name, in the model's order.

    Blocks of several stages are numbered through in this order and dealt jointly.
    """
    return {name: m for name, m in model.named_modules() if isinstance(m, PartitionedStage)}


def partition_stages_of(
    backbone: nn.Module,
    stage_names: Sequence[str],
    partition_stages: Sequence[str],
    anatomy: BlockAnatomy,
    partition_first: bool,
) -> None:
    """Replace stages of a backbone, in place, by partitioned ones of the same blocks.

    Raises:
        ValueError: If a stage of ``partition_stages`` does not exist or has too
            few blocks.
    """
    if isinstance(partition_stages, str):
        partition_stages = (partition_stages,)
    for name in partition_stages:
        if name not in stage_names:
            raise ValueError(
                f'partition_stages names {name!r}, but the stages of this {type(backbone).__name__} '
                f'are {list(stage_names)}'
            )
        blocks = list(getattr(backbone, name).children())
        try:
            setattr(backbone, name, PartitionedStage(blocks, anatomy, partition_first))
        except ValueError as error:
            raise ValueError(f'partition_stages names {name!r}: {error}') from None
