"""ConvNeXt.

Liu et al., "A ConvNet for the 2020s", CVPR 2022, arXiv:2201.03545.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .adapter import BlockAdapter, first_input, register_adapter

__all__ = ['ConvNeXtAdapter', 'TorchvisionConvNeXtAdapter']


@register_adapter('torchvision.models.convnext.CNBlock')
class TorchvisionConvNeXtAdapter(BlockAdapter):
    """torchvision's block: the branch ends at its stochastic depth, behind the layer scale."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``stochastic_depth``, which is there whatever its rate."""
        return [block.stochastic_depth]


@register_adapter(
    'mmpretrain.models.backbones.convnext.ConvNeXtBlock',
    'timm.models.convnext.ConvNeXtBlock',
)
class ConvNeXtAdapter(BlockAdapter):
    """mmpretrain's and timm's block: the branch ends at ``drop_path``; timm's may have a projection shortcut."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``drop_path``, an identity if its rate is 0."""
        return [block.drop_path]

    def shared(self, block: Any) -> list[nn.Module]:
        """timm's ``shortcut``."""
        return [block.shortcut] if hasattr(block, 'shortcut') else []

    def skip(self, block: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The shortcut."""
        x = first_input(block, args, kwargs)
        return block.shortcut(x) if hasattr(block, 'shortcut') else x
