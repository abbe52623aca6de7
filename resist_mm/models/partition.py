"""Chains of residual blocks that can drop and regain blocks, in place, in any model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .block_gate import BlockGate
from .chain_checks import blocks_to_partition
from .chain_path import ChainPath
from .flat_parameters import FlatParameters

__all__ = ['PartitionedStage', 'partition', 'partitioned_stages']


class PartitionedStage:
    """A chain of residual blocks that are dealt out to workers (Sec. 2.2).

    The blocks stay where they are in the model, and parameters keep their names. Of a dropped block only the
    shortcut is computed, and its residual branch has neither storage nor gradients; its BatchNorm buffers, which
    are small, stay. So do parameters that do not require a gradient, since they never change.

    The stage belongs either to the whole model or to a sub-ResNet. In the whole model every block is there, and
    the residual branches of the partitioned blocks are multiplied by the container's buffer ``scale`` (Sec. 2.6,
    "Scaling activations"); in a sub-ResNet the factor is 1. A new stage is whole and has the scale 1, so that it
    computes what it did before.

    Args:
        container (nn.Module): Holds the blocks as children; gets the buffer ``scale``.
        first (int): Place of the first partitioned block among the children. The paper shares the first one of a
            stage (Fig. 6). Defaults to 1.
        stop (int, optional): Place after the last one. Defaults to None: all that follow.
        name (str): What to call the container in errors. Defaults to 'the stage'.

    Raises:
        ValueError: If there is no block to partition, a block cannot be partitioned, or the container has a
            partitioned stage already.
    """

    def __init__(
        self, container: nn.Module, first: int = 1, stop: int | None = None, name: str = 'the stage'
    ) -> None:
        blocks = blocks_to_partition(container, first, stop, name)
        self.container = container
        self.partitioned_blocks = blocks
        self.name = name
        container.register_buffer('scale', torch.ones(()))
        container.register_load_state_dict_pre_hook(_plain_weights_are_not_scaled)
        container.partitioned_stage = self  # type: ignore[assignment]
        self.gates = [
            BlockGate(block, container, f'{name}[{place}]') for place, block in enumerate(blocks, start=first)
        ]
        for gate in self.gates:
            gate.block.forward = gate  # type: ignore[method-assign]
        self._flats: dict[int, FlatParameters] = {}

    @property
    def scale(self) -> Tensor:
        """The activation scale of the whole model, one number."""
        return self.gates[0].scale

    @property
    def num_partitioned(self) -> int:
        """Number of partitioned blocks."""
        return len(self.partitioned_blocks)

    @property
    def is_whole(self) -> bool:
        """Whether this is the whole model's stage, not a sub-ResNet's."""
        return self.gates[0].scaled

    @property
    def held(self) -> frozenset[int]:
        """The numbers of the partitioned blocks that are there."""
        return frozenset(number for number, gate in enumerate(self.gates) if gate.present)

    def block_parameters(self, number: int) -> list[nn.Parameter]:
        """The trainable parameters of a block that only its holders have."""
        shared = {id(p) for module in self._shared(number) for p in module.parameters()}
        block = self.partitioned_blocks[number]
        return [p for p in block.parameters() if p.requires_grad and id(p) not in shared]

    def block_buffers(self, number: int) -> list[Tensor]:
        """The buffers of a block's residual branch (BatchNorm statistics)."""
        shared = {id(b) for module in self._shared(number) for b in module.buffers()}
        return [b for b in self.partitioned_blocks[number].buffers() if id(b) not in shared]

    def flat_block(self, number: int) -> FlatParameters:
        """A block's trainable parameters as one flat tensor, made at the first call.

        Raises:
            ValueError: If the block has no trainable parameters, or they differ in dtype or device.
        """
        if number not in self._flats:
            params, label = self.block_parameters(number), self.gates[number].label
            if not params:
                raise ValueError(
                    f'{label} has no trainable parameters: do not freeze a partitioned stage (frozen_stages), and '
                    'leave blocks without parameters out of the chain'
                )
            try:
                self._flats[number] = FlatParameters(params)
            except ValueError as error:
                raise ValueError(f'{label} cannot be handed from worker to worker: {error}') from None
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
            self.gates[number].present = False
        self._set_scaled(False)

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
        self.gates[number].present = True
        return storage

    def make_whole(self) -> None:
        """Become the whole model's stage: residual branches are scaled from now on.

        Raises:
            RuntimeError: If a block is still dropped.
        """
        missing = set(range(self.num_partitioned)) - self.held
        if missing:
            raise RuntimeError(f'blocks {sorted(missing)} are dropped: a whole stage needs them all')
        self._set_scaled(True)

    def _set_scaled(self, scaled: bool) -> None:
        for gate in self.gates:
            gate.scaled = scaled

    def _shared(self, number: int) -> Sequence[nn.Module]:
        return self.gates[number].adapter.shared(self.partitioned_blocks[number])


def partition(model: nn.Module, stages: str | Sequence[str]) -> list[PartitionedStage]:
    """Partition chains of residual blocks of a model, in place: all of them, or none if one is refused.

    A block that no adapter knows has to keep the shape of its input, which shows only when it is run: the first
    call of a model that holds the block raises a ValueError, but where it is dropped, its input is passed on as
    its output, whatever its shape. So run the whole model on an example before the first round; the hooks do.

    Args:
        model (nn.Module): Any model. Its parameters keep their names; each chain gets a buffer ``scale``.
        stages (str or Sequence[str]): Paths of the chains, such as ``'backbone.layer3'``: all children but the
            first are partitioned, as in the paper; or with a slice that says which, as ``'encoder.layers[2:]'``.
            A slice alone, ``'[1:]'``, means the children of the model itself.

    Returns:
        list[PartitionedStage]: The stages, in the order of ``stages``.

    Raises:
        ValueError: If a path does not exist, a chain has no block to partition or a block cannot be partitioned.
            The model is unchanged then.

    Example:
        >>> from torchvision.models import resnet18
        >>> model = resnet18()
        >>> [stage] = partition(model, 'layer3')
        >>> stage.num_partitioned
        1
    """
    paths = [ChainPath.parse(path) for path in ([stages] if isinstance(stages, str) else stages or ())]
    if not paths:
        raise ValueError('stages must name at least one chain of residual blocks, such as "backbone.layer3"')
    containers = [path.container(model) for path in paths]
    chains = [
        (container, *path.bounds(container), path.name or 'the model')
        for path, container in zip(paths, containers, strict=True)
    ]
    others: set[nn.Module] = set()
    for container, first, stop, name in chains:  # all of them before anything is changed
        others.update([container, *blocks_to_partition(container, first, stop, name, others)])
    return [PartitionedStage(*chain) for chain in chains]


def partitioned_stages(model: nn.Module) -> dict[str, PartitionedStage]:
    """The partitioned stages of a model by the names of their containers, in the model's order.

    The blocks of all stages are numbered consecutively in this order and dealt out together.
    """
    found = ((name, getattr(m, 'partitioned_stage', None)) for name, m in model.named_modules())
    return {name: stage for name, stage in found if isinstance(stage, PartitionedStage)}


def _plain_weights_are_not_scaled(
    container: nn.Module, state_dict: dict[str, Any], prefix: str, *args: Any
) -> None:
    # the weights of a plain model have no scale, which means 1; those of another part say nothing about it
    if any(key.startswith(prefix) for key in state_dict):
        state_dict.setdefault(f'{prefix}scale', torch.ones_like(container.scale))  # type: ignore[arg-type]
