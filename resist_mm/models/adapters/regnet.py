"""torchvision's and timm's RegNet; mmdet's is made of ResNeXt's blocks.

Radosavovic et al., "Designing Network Design Spaces", CVPR 2020, arXiv:2003.13678.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .adapter import BlockAdapter, activated_shortcut, register_adapter

__all__ = ['TorchvisionRegNetAdapter']


@register_adapter('torchvision.models.regnet.ResBottleneckBlock')
class TorchvisionRegNetAdapter(BlockAdapter):
    """The branch is one module, ``f``; ``proj`` is the projection shortcut."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``f``."""
        return [block.f]

    def shared(self, block: Any) -> list[nn.Module]:
        """``proj``, if there is one."""
        return [] if block.proj is None else [block.proj]

    def skip(self, block: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The shortcut and the activation; a ReLU would not change x, which came out of one."""
        (x,) = (*args, *kwargs.values())
        return activated_shortcut(block.activation, x, x if block.proj is None else block.proj(x))
