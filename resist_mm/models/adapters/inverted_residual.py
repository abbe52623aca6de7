"""Inverted residual blocks: MobileNetV2, EfficientNet.

Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .adapter import BlockAdapter, register_adapter

__all__ = ['MMDetInvertedResidualAdapter', 'MobileNetV2Adapter', 'TorchvisionMBConvAdapter']

NO_SHORTCUT = 'it changes the shape and has no shortcut, so it is not a residual block: start the chain after it'


@register_adapter('torchvision.models.efficientnet.MBConv', 'torchvision.models.efficientnet.FusedMBConv')
class TorchvisionMBConvAdapter(BlockAdapter):
    """torchvision's EfficientNet: the branch ends at its stochastic depth."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``stochastic_depth``, which is there whatever its rate."""
        return [block.stochastic_depth]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The norm of the last convolution."""
        return [block.block]

    def refusal(self, block: Any) -> str | None:
        """The first block of a stage, which has no shortcut."""
        return None if block.use_res_connect else NO_SHORTCUT


@register_adapter('torchvision.models.mobilenetv2.InvertedResidual')
class MobileNetV2Adapter(BlockAdapter):
    """torchvision's MobileNetV2: the branch is one module, ``conv``."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``conv``."""
        return [block.conv]

    def refusal(self, block: Any) -> str | None:
        """Blocks without a shortcut."""
        return None if block.use_res_connect else NO_SHORTCUT


@register_adapter('mmdet.models.layers.inverted_residual.InvertedResidual')
class MMDetInvertedResidualAdapter(BlockAdapter):
    """mmdet's MobileNetV2 and EfficientNet: the branch ends at ``drop_path``."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``drop_path``, an identity if its rate is 0."""
        return [block.drop_path]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last convolution, with its norm."""
        return [block.linear_conv]

    def refusal(self, block: Any) -> str | None:
        """Blocks without a shortcut."""
        return None if block.with_res_shortcut else NO_SHORTCUT
