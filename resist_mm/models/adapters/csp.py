"""Darknet's residual blocks, and those inside cross-stage partial layers (CSPDarknet, CSPNeXt).

Wang et al., "CSPNet: A New Backbone that can Enhance Learning Capability of CNN", CVPRW 2020, arXiv:1911.11929.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .adapter import BlockAdapter, register_adapter

__all__ = ['CSPAdapter', 'DarknetAdapter']


@register_adapter('mmdet.models.backbones.darknet.ResBlock')
class DarknetAdapter(BlockAdapter):
    """The branch ends at the activation of the second convolution."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``conv2``, with its norm and activation."""
        return [block.conv2]


@register_adapter(
    'mmdet.models.layers.csp_layer.DarknetBottleneck',
    'mmdet.models.layers.csp_layer.CSPNeXtBlock',
)
class CSPAdapter(DarknetAdapter):
    """As Darknet's, but the shortcut may be absent."""

    def refusal(self, block: Any) -> str | None:
        """Blocks without a shortcut, as in the necks of YOLOX and RTMDet."""
        return None if block.add_identity else 'it has no shortcut (add_identity=False)'
