"""The parts that a network is exchanged in: what all workers share, and each partitioned block."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from resist_mm.exchange.codec import Codec
from resist_mm.exchange.memory import empty_flat
from resist_mm.exchange.message import try_codec
from resist_mm.models.flat_parameters import FlatParameters, flatten_by_dtype
from resist_mm.models.partition import PartitionedStage, partitioned_stages

from .model_checks import check_one_device, check_ownership, check_unchanged, check_whole, parameters_of

__all__ = ['Part', 'Parts', 'named_statistics', 'running_norms', 'statistics_of']


class Part:
    """What travels together: the shared part, or one partitioned block.

    Attributes:
        name: What to call it in messages to the user.
        block: The number of the block; None: it is shared.
        flat: Its trainable parameters; None: it has none.
        norms: Its norms with running statistics.
        reference: Its value when the round began, of shape (numel,), the same on all holders. Kept only where a
            protocol or a codec asks for it.
        residual: What compression has left out of it so far, of shape (num_weights,).
        staged: Its value after the exchange that is under way, until that is accepted.
        agreed: What will be the reference of the next round, where that is not what each worker begins it with.
    """

    def __init__(
        self, name: str, block: int | None, flat: FlatParameters | None, norms: Iterable[_NormBase] = ()
    ) -> None:
        self.name, self.block, self.flat = name, block, flat
        self.norms = list(norms)
        self.reference: Tensor | None = None
        self.residual: Tensor | None = None
        self.staged: Tensor | None = None
        self.agreed: Tensor | None = None
        self._room: Tensor | None = None  # for a reference

    @property
    def held(self) -> bool:
        """Whether this worker has it."""
        return self.flat is None or not self.flat.released

    @property
    def params(self) -> list[nn.Parameter]:
        """Its trainable parameters, held or not."""
        return [] if self.flat is None else self.flat.params

    @property
    def nbytes(self) -> int:
        """Size of its parameters in bytes, held or not."""
        return 0 if self.flat is None else self.flat.nbytes

    def make_room_for_reference(self) -> None:
        """Allocate what :meth:`remember` will need, which cannot fail then."""
        if self.flat is not None and self.reference is None:
            self._room = empty_flat(self.flat.numel, self.flat.dtype, self.flat.device)

    def drop_unused_room(self) -> None:
        """Undo :meth:`make_room_for_reference`."""
        self._room = None

    def remember(self) -> None:
        """Keep a copy of its value, as a round begins; of one that is not held nothing is kept."""
        if self.flat is None or self.flat.released:
            self.reference = None
            return
        if self.agreed is not None:
            self.reference, self.agreed = self.agreed, None
            return
        if self.reference is None and self._room is None:
            self.make_room_for_reference()
        if self.reference is None:
            self.reference, self._room = self._room, None
        assert self.reference is not None
        self.reference.copy_(self.flat.flat)


class Parts:
    """A model, cut into parts.

    Blocks of all partitioned stages are numbered through, stage by stage. Only parameters that require a
    gradient take part; frozen ones are equal on all workers and stay so.

    Args:
        model (nn.Module): The model, not its wrapper.
        deal_blocks (bool): Whether blocks are dealt out. If not, everything counts as
            shared, and any model will do. Defaults to True.

    Attributes:
        shared: The shared part, one for each dtype of its parameters.
        blocks: The partitioned blocks.

    Raises:
        ValueError: If a parameter belongs to a block and to something else as well, if trained parameters are on
            several devices, or if blocks have been dropped.
    """

    def __init__(self, model: nn.Module, deal_blocks: bool = True) -> None:
        self.model = model
        self.stages: list[PartitionedStage] = list(partitioned_stages(model).values()) if deal_blocks else []
        self._places = [(stage, number) for stage in self.stages for number in range(stage.num_partitioned)]
        check_whole(model)
        check_one_device(model)
        check_ownership(model, self._places)
        norms = [m for m in model.modules() if isinstance(m, _NormBase) and m.running_mean is not None]
        self.blocks = [
            Part(f'block {i}', i, stage.flat_block(number), _norms_of(stage, number, norms))
            for i, (stage, number) in enumerate(self._places)
        ]
        in_blocks = {p for part in self.blocks for p in part.params}
        norms_in_blocks = {norm for part in self.blocks for norm in part.norms}
        flats = flatten_by_dtype(p for p in model.parameters() if p.requires_grad and p not in in_blocks)
        self.shared = [Part('the shared part', None, flat) for flat in flats or (None,)]
        self.shared[0].norms = [norm for norm in norms if norm not in norms_in_blocks]
        self._at_the_start = parameters_of(model)

    @property
    def num_blocks(self) -> int:
        """Number of partitioned blocks."""
        return len(self.blocks)

    @property
    def all(self) -> list[Part]:
        """The shared part and the blocks, held or not."""
        return [*self.shared, *self.blocks]

    @property
    def device(self) -> torch.device:
        """The device of what is trained."""
        params = list(self.model.parameters())
        return next((p for p in params if p.requires_grad), params[0]).device

    def names(self) -> dict[Any, str]:
        """The name of every parameter and module, for messages to the user."""
        return {
            **{p: name for name, p in self.model.named_parameters()},
            **{module: name for name, module in self.model.named_modules()},
        }

    def set_scale(self, scale: float) -> None:
        """Set the activation scale of the whole model."""
        for stage in self.stages:
            stage.scale.fill_(scale)

    def check_trainable(self) -> None:
        """Refuse parameters that were frozen, thawed, replaced, added or removed since the start.

        Raises:
            ValueError: Naming the first one.
        """
        check_unchanged(self._at_the_start, parameters_of(self.model))

    def drop_gradients(self) -> bool:
        """Drop gradients that are still being accumulated: they belong to the old sub-ResNet.

        Returns:
            bool: Whether there were any.
        """
        had_any = False
        for p in self.model.parameters():
            had_any |= p.grad is not None
            p.grad = None
        return had_any

    def get_ready_for(self, codec: Codec | None) -> None:
        """Try a codec; let the shared part keep what it leaves out, if it feeds errors back.

        Raises:
            ValueError: If the codec makes another message than it has announced.
        """
        if codec is not None:
            try_codec(codec, self.device)
        for part in self.shared:
            if codec is not None and codec.feeds_errors_back and part.flat is not None:
                part.residual = part.flat.flat.new_zeros(part.flat.num_weights)

    @property
    def residual_bytes(self) -> int:
        """Size of what compression has left out, in bytes."""
        return sum(part.residual.nbytes for part in self.all if part.residual is not None)

    def put(self, part: Part, storage: Tensor) -> None:
        """Give a part other storage with a new value; a dropped block is there again."""
        assert part.flat is not None
        if part.block is not None and part.flat.released:
            stage, number = self._places[part.block]
            stage.regain(number, storage)
        else:
            part.flat.replace(storage)

    def held_with(self, blocks: Collection[int]) -> list[Part]:
        """The parts of a worker that holds some blocks."""
        return [*self.shared, *(self.blocks[block] for block in blocks)]

    def make_room_for_references(self, blocks: Collection[int]) -> None:
        """Allocate what is missing to remember the values of the shared part and of blocks."""
        for part in self.held_with(blocks):
            part.make_room_for_reference()

    def drop_unused_room(self) -> None:
        """Undo :meth:`make_room_for_references`."""
        for part in self.all:
            part.drop_unused_room()

    def keep(self, blocks: Collection[int]) -> list[Part]:
        """Become a sub-ResNet: drop all other blocks.

        Returns:
            list[Part]: The blocks that are not held now.
        """
        for stage in self.stages:
            stage.hold([n for b, (s, n) in enumerate(self._places) if s is stage and b in blocks])
        return [part for part in self.blocks if part.block not in blocks]

    def make_whole(self) -> None:
        """Become the whole model; every block has to be there."""
        for stage in self.stages:
            stage.make_whole()


def running_norms(model: nn.Module) -> list[_NormBase]:
    """The norms of a model that are updating running statistics now.

    Norms in eval mode (``norm_eval``, frozen stages) have statistics that never
    change, and those with ``track_running_stats=False`` have none.
    """
    return _running(m for m in model.modules() if isinstance(m, _NormBase))


def statistics_of(norms: Iterable[_NormBase]) -> list[Tensor]:
    """The running means and variances of norms that are updating them now."""
    return [t for norm in _running(norms) for t in (norm.running_mean, norm.running_var) if t is not None]


def named_statistics(norms: Iterable[_NormBase], names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
    """The same, each with its name; ``names`` has those of the norms."""
    for norm in _running(norms):
        for kind in ('running_mean', 'running_var'):
            tensor = getattr(norm, kind)
            if tensor is not None:
                yield f'{names[norm]}.{kind}', tensor


def _running(norms: Iterable[_NormBase]) -> list[_NormBase]:
    return [m for m in norms if m.training and m.track_running_stats and m.running_mean is not None]


def _norms_of(stage: PartitionedStage, number: int, norms: Iterable[_NormBase]) -> list[_NormBase]:
    own = {id(buffer) for buffer in stage.block_buffers(number)}
    return [norm for norm in norms if id(norm.running_mean) in own]
