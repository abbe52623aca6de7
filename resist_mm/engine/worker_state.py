"""The tensors of one worker, by what happens to them in an exchange."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resist_mm.models.flat_parameters import FlatParameters, flatten_by_dtype
from resist_mm.models.partitioned_stage import PartitionedStage, partitioned_stages

from .optimizer_state import OptimizerState

__all__ = ['WorkerState', 'running_norms', 'statistics_of']


class WorkerState:
    """A worker's model and optimizer state, split into shared part and blocks.

    The blocks of all partitioned stages are numbered through, stage by stage.
    Only parameters that require a gradient take part; frozen ones are equal on
    all workers and stay so.

    Args:
        model (nn.Module): The model, not its wrapper.
        optimizer_state (OptimizerState): The state of its optimizers.
        deal_blocks (bool): Whether blocks are dealt out. If not, everything counts as
            shared, and any model will do. Defaults to True.
    """

    def __init__(self, model: nn.Module, optimizer_state: OptimizerState, deal_blocks: bool = True) -> None:
        self.model = model
        self.optimizer_state = optimizer_state
        self.stages = list(partitioned_stages(model).values()) if deal_blocks else []
        self._places: list[tuple[PartitionedStage, int]] = [
            (stage, number) for stage in self.stages for number in range(stage.num_partitioned)
        ]
        in_blocks = {id(p) for block in range(self.num_blocks) for p in self.flat_block(block).params}
        self.shared = flatten_by_dtype(p for p in model.parameters() if p.requires_grad and id(p) not in in_blocks)

    @property
    def num_blocks(self) -> int:
        """Number of partitioned blocks."""
        return len(self._places)

    @property
    def device(self) -> torch.device:
        """The device of the model."""
        return next(self.model.parameters()).device

    def flat_block(self, block: int) -> FlatParameters:
        """The trainable parameters of a block."""
        stage, number = self._places[block]
        return stage.flat_block(number)

    def set_scale(self, scale: float) -> None:
        """Set the activation scale of the whole model."""
        for stage in self.stages:
            stage.scale.fill_(scale)

    def hold(self, blocks: Iterable[int]) -> None:
        """Become a sub-ResNet: drop all other blocks and what optimizers remember of them."""
        blocks = set(blocks)
        for stage in self.stages:
            stage.hold([n for b, (s, n) in enumerate(self._places) if s is stage and b in blocks])
        for block in range(self.num_blocks):
            if block not in blocks:
                self.optimizer_state.forget(self.flat_block(block).params)

    def drop_gradients(self) -> None:
        """Drop gradients that are still being accumulated: they belong to the old sub-ResNet."""
        for p in self.model.parameters():
            p.grad = None

    def make_whole(self) -> None:
        """Become the whole model; every block has to be there."""
        for stage in self.stages:
            stage.make_whole()

    def regain(self, block: int) -> Tensor:
        """Give a dropped block its storage back."""
        stage, number = self._places[block]
        return stage.regain(number)

    def norms_of_block(self, block: int) -> list[_NormBase]:
        """The norms with running statistics in the residual branch of a block."""
        stage, number = self._places[block]
        own = {id(b) for b in stage.block_buffers(number)}
        return [m for m in running_norms(self.model) if id(m.running_mean) in own]

    def shared_norms(self) -> list[_NormBase]:
        """The norms with running statistics outside the partitioned blocks."""
        in_blocks = {id(m) for block in range(self.num_blocks) for m in self.norms_of_block(block)}
        return [m for m in running_norms(self.model) if id(m) not in in_blocks]


def running_norms(model: nn.Module) -> list[_NormBase]:
    """The norms of a model that are updating running statistics now.

    Norms in eval mode (``norm_eval``, frozen stages) have statistics that never
    change, and those with ``track_running_stats=False`` have none.
    """
    return [
        m
        for m in model.modules()
        if isinstance(m, _NormBase) and m.training and m.track_running_stats and m.running_mean is not None
    ]


def statistics_of(norms: Iterable[_NormBase]) -> list[Tensor]:
    """The running means and variances of norms that have them."""
    tensors = [tensor for norm in norms for tensor in (norm.running_mean, norm.running_var)]
    return [tensor for tensor in tensors if tensor is not None]
