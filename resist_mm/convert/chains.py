"""The chains of residual blocks that a model has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from torch import nn

from resist_mm.models.adapters import BlockAdapter, adapter_of

__all__ = ['Chain', 'find_chains']

BACKBONE = 'backbone.'


@dataclass(frozen=True)
class Chain:
    """Blocks that follow one another, of which some can be partitioned.

    Attributes:
        path: What to put in ``stages``: ``'backbone.layer3'``, ``'backbone.stages.2.blocks[:]'``.
        container: The module's name in the model.
        blocks: The partitioned blocks.
        num_blocks: Number of all blocks, with a shared first one.
        adapter: The class of the adapter; None: there is none, blocks are handled as any function of their input.
    """

    path: str
    container: str
    blocks: tuple[nn.Module, ...] = field(repr=False)
    num_blocks: int
    adapter: str | None

    @property
    def kind(self) -> str:
        """The class of the blocks."""
        return type(self.blocks[0]).__name__

    @property
    def num_partitioned(self) -> int:
        """Number of partitioned blocks."""
        return len(self.blocks)

    @property
    def num_parameters(self) -> int:
        """Number of parameters of all partitioned blocks."""
        return sum(p.numel() for block in self.blocks for p in block.parameters())

    @property
    def in_backbone(self) -> bool:
        """Whether it lies in the backbone."""
        return self.container.startswith(BACKBONE)


def find_chains(model: nn.Module) -> list[Chain]:
    """Find the chains of blocks of a model, in its order.

    A chain consists of children of one module that follow one another and are residual blocks: their class has an
    adapter, which does not refuse them, and they are not frozen. If the first one has a projection shortcut, it
    is not partitioned, as in the paper (Fig. 6). Where a module has several such chains, the longest is found.

    Chains without an adapter are found too if they look like a stack of equal blocks: at least two children
    of one class with parameters of the same shapes. Whether they are residual is not known.

    Args:
        model (nn.Module): A model, also on the meta device.
    """
    found = (_chain_of(name, module) for name, module in model.named_modules() if name)
    return [chain for chain in found if chain is not None]


def _chain_of(name: str, module: nn.Module) -> Chain | None:
    children = list(module.children())
    runs = list(_runs(children))
    if not runs:
        return None
    first, stop = max(runs, key=lambda run: run[1] - run[0])
    adapter = adapter_of(children[first])
    blocks = children[first:stop]
    shared_first = len(list(adapter.shared(blocks[0]))) > 0
    kept = first + shared_first
    if kept >= stop:
        return None
    bounds = '' if (kept, stop) == (1, len(children)) else _slice(kept, stop, len(children))
    known = type(adapter) is not BlockAdapter
    return Chain(
        path=f'{name}{bounds}',
        container=name,
        blocks=tuple(children[kept:stop]),
        num_blocks=stop - first,
        adapter=type(adapter).__name__ if known else None,
    )


def _slice(first: int, stop: int, length: int) -> str:
    return f'[{first or ""}:{"" if stop == length else stop}]'


def _runs(children: list[nn.Module]) -> Iterator[tuple[int, int]]:
    """Places of the first block and behind the last one, of every run of blocks."""
    place = 0
    for _, group in groupby(children, key=_likeness):
        members = list(group)
        if _likeness(members[0]) is not None:
            generic = type(adapter_of(members[0])) is BlockAdapter
            if not generic or len(members) > 1:
                yield place, place + len(members)
        place += len(members)


def _likeness(block: nn.Module) -> object | None:
    """Equal for the blocks of a chain; None: no block that could be dealt out."""
    adapter = adapter_of(block)
    shared = {id(p) for module in adapter.shared(block) for p in module.parameters()}
    if not any(p.requires_grad and id(p) not in shared for p in block.parameters()):
        return None
    if type(adapter) is not BlockAdapter:
        return type(block) if adapter.refusal(block) is None else None
    # stacks of convolutions, as in heads, have equal members as well, but are called ConvModule
    named_so = any(part in type(block).__name__ for part in ('Block', 'Bottleneck', 'Layer'))
    if not named_so or type(block).__module__.startswith('torch.nn.modules.norm'):
        return None
    return type(block), tuple((n, tuple(p.shape)) for n, p in block.named_parameters())
