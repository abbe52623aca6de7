"""What can be partitioned: checks that change nothing."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from .adapters import adapter_of
from .block_gate import gate_of

__all__ = ['blocks_to_partition']


def blocks_to_partition(
    container: nn.Module, first: int, stop: int | None, name: str, others: Collection[nn.Module] = ()
) -> list[nn.Module]:
    """The blocks of a chain, after checking that they can be partitioned.

    Args:
        container (nn.Module): Holds the blocks as children.
        first (int): Place of the first block to partition among the children.
        stop (int, optional): Place after the last one; None: all that follow.
        name (str): What to call the container in errors.
        others (Collection[nn.Module]): Containers and blocks of chains that will be partitioned before this one.

    Returns:
        list[nn.Module]: At least one block.

    Raises:
        ValueError: If there is none, one cannot be partitioned, or the container has a partitioned stage already.
    """
    blocks = list(container.children())[first:stop]
    if not blocks:
        raise ValueError(_why_empty(container, first, stop, name))
    if container in others or hasattr(container, 'scale') or hasattr(container, 'partitioned_stage'):
        raise ValueError(f'{name} is partitioned already, or has an attribute `scale` of its own')
    for place, block in enumerate(blocks, start=first):
        refusal = 'it is part of another chain already' if block in others else _refusal(block)
        if refusal is not None:
            raise ValueError(f'{name}[{place}] ({type(block).__name__}) cannot be partitioned: {refusal}')
    return blocks


def _refusal(block: nn.Module) -> str | None:
    if gate_of(block) is not None:
        return 'it is part of another chain already'
    if 'forward' in vars(block):
        return (
            'the `forward` of this one object was replaced, which its partition would undo. Partition the model '
            'first, then replace it'
        )
    adapter = adapter_of(block)
    try:
        adapter.residual_ends(block)
    except AttributeError as error:
        return f'{type(adapter).__name__} does not find the ends of its residual branches: {error}'
    return adapter.refusal(block)


def _why_empty(container: nn.Module, first: int, stop: int | None, name: str) -> str:
    count = len(list(container.children()))
    if count == 0:
        return (
            f'{name} ({type(container).__name__}) has no blocks, since it has no submodules: name a module whose '
            'children are residual blocks'
        )
    if count == 1 and first == 1:
        return (
            f'{name} has only one block, which all workers share, so none is left to deal out. Choose a deeper '
            'network or another stage'
        )
    bounds = f'{first}:{"" if stop is None else stop}'
    return f'{name}[{bounds}] has no block: {name} has {count}, and they are numbered from 0'
