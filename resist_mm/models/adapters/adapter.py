"""What the partition has to know about a kind of residual block."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from torch import Tensor, nn

__all__ = ['BlockAdapter', 'activated_shortcut', 'adapter_of', 'first_input', 'register_adapter']

IDEMPOTENT = (nn.ReLU, nn.ReLU6, nn.Identity)  # activations for which f(f(x)) = f(x)


class BlockAdapter:
    """Where the residual branches of a block end, and what stays and is computed when they are dropped.

    A new kind of block needs a subclass, registered for the block's class::

        @register_adapter('my_package.blocks.MyBlock')
        class MyBlockAdapter(BlockAdapter):
            def residual_ends(self, block):
                return [block.last_norm]

    A block of a class without an adapter is handled by this one, which knows nothing about it: the block as a
    whole counts as a residual branch, ``x + (block(x) - x)``.
    """

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """The modules whose outputs, multiplied by the activation scale, are added to a shortcut.

        If there are none, the difference between the output and the input of the block is scaled.
        """
        return []

    def shared(self, block: Any) -> list[nn.Module]:
        """The modules that stay on every worker when the block is dropped, such as a projection shortcut."""
        return []

    def skip(self, block: Any, *args: Any, **kwargs: Any) -> Any:
        """Compute the output of the block without its residual branches; by default its first input."""
        return first_input(block, args, kwargs)

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """What can absorb the scale (``fold_scale``): the last module with weights of each branch, or a factor."""
        return list(self.residual_ends(block))

    def refusal(self, block: Any) -> str | None:
        """Why this block cannot be partitioned; None: it can."""
        return None


Adapter = TypeVar('Adapter', bound=type[BlockAdapter])
_ADAPTERS: dict[str, BlockAdapter] = {}
_GENERIC = BlockAdapter()


def register_adapter(*block_classes: str | type[nn.Module]) -> Callable[[Adapter], Adapter]:
    """Register a class of adapters for classes of blocks.

    Args:
        *block_classes (str or type): The classes, or, to avoid importing them, their names with the module that
            defines them, such as ``'torchvision.models.resnet.BasicBlock'``.
    """

    def register(adapter: Adapter) -> Adapter:
        for block_class in block_classes:
            _ADAPTERS[block_class if isinstance(block_class, str) else _name(block_class)] = adapter()
        return adapter

    return register


def adapter_of(block: nn.Module) -> BlockAdapter:
    """The adapter of a block: that of its class, or of the base class whose ``forward`` it inherits."""
    for cls in type(block).__mro__:
        if _name(cls) in _ADAPTERS:
            return _ADAPTERS[_name(cls)]
        if 'forward' in vars(cls):  # computes something other than its base classes
            return _GENERIC
    return _GENERIC


def first_input(block: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Tensor:
    """The input of a block: its first argument, whether passed by position or by name."""
    if args:
        return args[0]
    parameters = list(inspect.signature(type(block).forward).parameters)
    return kwargs[parameters[1]]  # parameter 0 is self


def activated_shortcut(activation: nn.Module, x: Tensor, shortcut: Tensor) -> Tensor:
    """The output of a block ``activation(shortcut(x) + branch(x))`` without its residual branch.

    Args:
        activation (nn.Module): The block's; it may work in place.
        x (Tensor): The input of the block, which came out of an activation of the same kind.
        shortcut (Tensor): The output of the shortcut; ``x`` itself if that is the identity.

    Returns:
        Tensor: Of the same shape; ``x`` itself if the activation would not change it.
    """
    if shortcut is not x:
        return activation(shortcut)
    return x if isinstance(activation, IDEMPOTENT) else activation(x.clone())


def _name(cls: type) -> str:
    return f'{cls.__module__}.{cls.__qualname__}'
