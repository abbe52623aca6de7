"""Pre-activation residual blocks.

He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016, arXiv:1603.05027.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .adapter import BlockAdapter, register_adapter

__all__ = ['PreActAdapter']


@register_adapter('resist_mm.models.backbones.preact_blocks.PreActBlock')
class PreActAdapter(BlockAdapter):
    """The branch ends at the last convolution; a projection shortcut takes the pre-activated input."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """The last convolution."""
        return [getattr(block, f'conv{block.num_convs}')]

    def shared(self, block: Any) -> list[nn.Module]:
        """A projection shortcut, and the first norm, which it needs."""
        return [] if block.downsample is None else [block.norm1, block.downsample]

    def skip(self, block: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The shortcut."""
        (x,) = (*args, *kwargs.values())
        return x if block.downsample is None else block.downsample(block.preactivate(x))
