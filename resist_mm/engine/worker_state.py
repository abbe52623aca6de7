"""The tensors of one worker, by what happens to them in an exchange."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resist_mm.models.flat_parameters import FlatParameters, flatten_by_dtype
from resist_mm.models.partitioned_stage import PartitionedStage, partitioned_stages

from .optimizer_state import OptimizerState, StateEntry
from .packing import pack, unpack

__all__ = ['Cargo', 'WorkerState', 'running_norms', 'statistics_of']

_Unpack = Callable[[Tensor], None]


class WorkerState:
    """A worker's model and optimizer state, split into shared part and blocks.

    The blocks of all partitioned stages are numbered through, stage by stage.
    Only parameters that require a gradient take part; frozen ones are equal on
    all workers and stay so.

    Args:
        model (nn.Module): The model, not its wrapper.
        optimizer_state (OptimizerState): The state of its optimizers.
    """

    def __init__(self, model: nn.Module, optimizer_state: OptimizerState) -> None:
        self.model = model
        self.optimizer_state = optimizer_state
        self.stages = list(partitioned_stages(model).values())
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


class Cargo:
    """What travels in one exchange: parameters, and with them what is asked for.

    Flat parameters are sent from and received into their own storage. Optimizer
    state and running statistics are packed into one more message each, and have
    to be unpacked after the exchange.

    Args:
        worker (WorkerState): The tensors of this worker.
        momentum (bool): Whether the optimizer state travels.
        statistics (bool): Whether the running statistics of norms travel.
    """

    def __init__(self, worker: WorkerState, momentum: bool, statistics: bool) -> None:
        self.worker = worker
        self.statistics = statistics
        self.momentum = momentum
        self._packed: dict[int | None, list[tuple[Tensor, _Unpack]]] = {}

    def shared(self) -> list[Tensor]:
        """The tensors that every worker holds."""
        return [flat.flat for flat in self.worker.shared] + self._extras(None)

    def tensors(self, block: int) -> list[Tensor]:
        """The tensors of a block that this worker holds."""
        return [self.worker.flat_block(block).flat, *self._extras(block)]

    def allocate(self, block: int) -> list[Tensor]:
        """Storage for a block that this worker takes over."""
        return [self.worker.regain(block), *self._extras(block)]

    def block_bytes(self) -> list[int]:
        """Size of every block's messages in bytes, whether or not it is held."""
        return [
            self.worker.flat_block(block).nbytes
            + sum(entry.nbytes for entry in self._entries(block))
            + sum(tensor.nbytes for tensor in self._statistics(block))
            for block in range(self.worker.num_blocks)
        ]

    def unpack(self) -> None:
        """Put what was packed, and has been exchanged since, back in its place."""
        for packed in self._packed.values():
            for message, put_back in packed:
                put_back(message)
        self._packed.clear()

    def _extras(self, part: int | None) -> list[Tensor]:
        if part not in self._packed:
            self._packed[part] = []
            entries, statistics = self._entries(part), self._statistics(part)
            if entries:
                state = self.worker.optimizer_state
                message = state.pack(entries, self.worker.device)
                self._packed[part].append((message, partial(state.unpack, entries)))
            if statistics:
                self._packed[part].append((pack(statistics), partial(unpack, statistics)))
        return [message for message, _ in self._packed[part]]

    def _entries(self, part: int | None) -> list[StateEntry]:
        if not self.momentum:
            return []
        flats = self.worker.shared if part is None else [self.worker.flat_block(part)]
        return self.worker.optimizer_state.entries(pair for flat in flats for pair in flat.sizes())

    def _statistics(self, part: int | None) -> list[Tensor]:
        if not self.statistics:
            return []
        norms = self.worker.shared_norms() if part is None else self.worker.norms_of_block(part)
        return statistics_of(norms)


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
