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
    """torchvision's block: the branch ends at its stochastic depth, after the layer scale."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``stochastic_depth``, which is there whatever its rate."""
        return [block.stochastic_depth]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The layer scale."""
        return [block.layer_scale]


@register_adapter(
    'mmpretrain.models.backbones.convnext.ConvNeXtBlock',
    'timm.models.convnext.ConvNeXtBlock',
)
class ConvNeXtAdapter(BlockAdapter):
    """mmpretrain's and timm's block: the branch ends at ``drop_path``; timm's may have a projection shortcut."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``drop_path``, an identity if its rate is 0."""
        return [block.drop_path]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The layer scale, or the last linear layer if there is none."""
        if block.gamma is not None:
            return [block.gamma]
        return [block.mlp.fc2 if hasattr(block, 'mlp') else block.pointwise_conv2]

    def shared(self, block: Any) -> list[nn.Module]:
        """timm's ``shortcut``."""
        return [block.shortcut] if hasattr(block, 'shortcut') else []

    def skip(self, block: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The shortcut."""
        x = first_input(block, args, kwargs)
        return block.shortcut(x) if hasattr(block, 'shortcut') else x
