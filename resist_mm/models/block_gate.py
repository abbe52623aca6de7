"""The gate of a partitioned block: runs the block, scaled or not, or its shortcut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from .adapters import adapter_of, first_input

__all__ = ['BlockGate', 'gate_of']


class BlockGate:
    """Replaces the ``forward`` of a partitioned block, and decides whether the block is run.

    Whatever calls the block (a container, a loop over a ModuleList, a method), with whatever arguments, gets the
    block's output, or that of its shortcut if the block is dropped.

    Attributes:
        present: Whether the block is there.
        scaled: Whether its residual branches are multiplied by the activation scale.
        compiled: What to call instead of the block's own ``forward``; copies do not have it.
    """

    # read where torch.compile traces, so plain bools: a set of blocks would need a graph for each of its values
    present = True
    scaled = True
    compiled: Callable | None = None

    def __init__(self, block: nn.Module, container: nn.Module, name: str) -> None:
        self.block, self.container, self.name = block, container, name
        self.adapter = adapter_of(block)
        self._ends: list[nn.Module] = []
        self._handles: list[RemovableHandle] = []
        self._hook_ends()
        self.generic = not self._ends

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the block, or its shortcut."""
        if not self.present:
            return self.adapter.skip(self.block, *args, **kwargs)
        if self.scaled:
            self._hook_ends()
        run = type(self.block).forward if self.compiled is None else self.compiled
        if not self.generic:
            return run(self.block, *args, **kwargs)
        x = first_input(self.block, args, kwargs)
        if self.scaled and isinstance(x, Tensor):
            x = x.clone()  # the block may change it in place
        return self._blend(x, run(self.block, *args, **kwargs))

    @property
    def scale(self) -> Tensor:
        """The activation scale of the whole model, one number."""
        return cast(Tensor, self.container.scale)

    @property
    def label(self) -> str:
        """What to call the block in errors: where it is, and its class."""
        return f'{self.name} ({type(self.block).__name__})'

    def _hook_ends(self) -> None:
        # at each call: fusing norms into convolutions, for one, puts other modules in their places
        ends = self.adapter.residual_ends(self.block)
        if len(ends) == len(self._ends) and all(a is b for a, b in zip(ends, self._ends, strict=True)):
            return
        for handle in self._handles:
            handle.remove()
        self._handles = [end.register_forward_hook(self._scale) for end in ends]
        self._ends = ends

    def _scale(self, module: nn.Module, args: Any, output: Tensor) -> Tensor | None:
        return output * self.scale if self.scaled else None

    def _blend(self, x: Any, out: Any) -> Tensor:
        if not (isinstance(x, Tensor) and isinstance(out, Tensor) and x.shape == out.shape):
            raise ValueError(
                f'{self.label} cannot be partitioned: it maps {_form(x)} to {_form(out)}, so its input cannot '
                'stand in for its output where it is dropped. Choose a chain of blocks that keep the shape, or '
                'leave this one out, as in stages=["backbone.layer3[1:]"]'
            )
        return x + self.scale * (out - x) if self.scaled else out

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key != 'compiled'}


def gate_of(block: nn.Module) -> BlockGate | None:
    """The gate of a block; None: it is not partitioned."""
    gate = vars(block).get('forward')
    return gate if isinstance(gate, BlockGate) else None


def _form(value: Any) -> str:
    return f'shape {tuple(value.shape)}' if isinstance(value, Tensor) else f'a {type(value).__name__}'
