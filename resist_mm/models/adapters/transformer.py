"""Transformer blocks with pre-normalisation: ViT, Swin, PVT. Attention and MLP are a residual branch each.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021, arXiv:2010.11929; Liu et al., "Swin Transformer",
ICCV 2021, arXiv:2103.14030. Blocks with post-normalisation (DETR's) are not a sum of input and branch, and need
no adapter.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from .adapter import BlockAdapter, register_adapter

__all__ = [
    'DropPathAdapter',
    'MMDetPVTAdapter',
    'MMDetSwinAdapter',
    'TorchvisionSwinAdapter',
    'TorchvisionViTAdapter',
]


@register_adapter('mmdet.models.backbones.swin.SwinBlock')
class MMDetSwinAdapter(BlockAdapter):
    """mmdet's Swin block: attention, and an FFN that adds the shortcut by itself."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``attn``, and the last module of ``ffn`` before the addition."""
        return [block.attn, block.ffn.dropout_layer]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last linear layers of both."""
        return [block.attn.w_msa.proj, block.ffn.layers]


@register_adapter('mmdet.models.backbones.pvt.PVTEncoderLayer')
class MMDetPVTAdapter(BlockAdapter):
    """mmdet's PVT block (arXiv:2102.12122): attention and MLP add the shortcut by themselves."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """The last modules of both before the addition."""
        return [block.attn.dropout_layer, block.ffn.dropout_layer]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last linear layers of both."""
        return [block.attn.attn.out_proj, block.ffn.layers]


@register_adapter('torchvision.models.swin_transformer.SwinTransformerBlock')
class TorchvisionSwinAdapter(BlockAdapter):
    """torchvision's Swin blocks: both branches end at the one stochastic depth."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``stochastic_depth``, called twice."""
        return [block.stochastic_depth]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last linear layers of attention and MLP."""
        return [block.attn.proj, block.mlp]


@register_adapter('torchvision.models.swin_transformer.SwinTransformerBlockV2')
class TorchvisionSwinV2Adapter(TorchvisionSwinAdapter):
    """torchvision's Swin V2 block, in which a norm follows attention and MLP."""

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The norms."""
        return [block.norm1, block.norm2]


@register_adapter('torchvision.models.vision_transformer.EncoderBlock')
class TorchvisionViTAdapter(BlockAdapter):
    """torchvision's ViT block."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``dropout`` after the attention, and ``mlp``."""
        return [block.dropout, block.mlp]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last linear layers of attention and MLP."""
        return [block.self_attention.out_proj, block.mlp]


@register_adapter('timm.models.vision_transformer.Block', 'timm.models.swin_transformer.SwinTransformerBlock')
class DropPathAdapter(BlockAdapter):
    """timm's blocks: each branch ends at its stochastic depth."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``drop_path1`` and ``drop_path2``, identities if the rate is 0."""
        return [block.drop_path1, block.drop_path2]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last linear layers of attention and MLP."""
        return [block.attn.proj, block.mlp.fc2]
