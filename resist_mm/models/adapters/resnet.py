"""Post-activation residual blocks: ResNet, ResNeXt, Res2Net, ResNeSt.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016, arXiv:1512.03385.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .adapter import BlockAdapter, activated_shortcut, register_adapter

__all__ = ['DetectoRSAdapter', 'MMDetResNetAdapter', 'MMPretrainResNetAdapter', 'TorchvisionResNetAdapter']


class _ResNetAdapter(BlockAdapter):
    """A block that ends in ``relu(branch(x) + shortcut(x))``, with ``downsample`` as a projection shortcut."""

    def activation(self, block: Any) -> nn.Module:
        """``relu``, which may be another activation."""
        return block.relu

    def shared(self, block: Any) -> list[nn.Module]:
        """The projection shortcut, if there is one."""
        return [] if block.downsample is None else [block.downsample]

    def skip(self, block: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The shortcut and the activation; a ReLU would not change x, which came out of one."""
        (x,) = (*args, *kwargs.values())
        shortcut = x if block.downsample is None else block.downsample(x)
        return activated_shortcut(self.activation(block), x, shortcut)


@register_adapter(
    'mmdet.models.backbones.resnet.BasicBlock',
    'mmdet.models.backbones.resnet.Bottleneck',
    'mmdet.models.backbones.res2net.Bottle2neck',
    'mmdet.models.backbones.resnest.Bottleneck',
)
class MMDetResNetAdapter(_ResNetAdapter):
    """mmdet's blocks: the branch ends at the last norm, or at the plugins after it."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``norm2`` of a basic block; of a bottleneck ``norm3`` or the last plugin after it."""
        if not hasattr(block, 'norm3'):
            return [block.norm2]
        if block.with_plugins and block.after_conv3_plugin_names:
            return [getattr(block, block.after_conv3_plugin_names[-1])]
        return [block.norm3]


@register_adapter('mmdet.models.backbones.detectors_resnet.Bottleneck')
class DetectoRSAdapter(MMDetResNetAdapter):
    """Blocks that a recursive feature pyramid also enters by another method than ``forward``."""

    def refusal(self, block: Any) -> str | None:
        """Always: ``rfp_forward`` would run a block that was dropped."""
        return 'a recursive feature pyramid calls its blocks by rfp_forward as well as by forward'


@register_adapter('torchvision.models.resnet.BasicBlock', 'torchvision.models.resnet.Bottleneck')
class TorchvisionResNetAdapter(_ResNetAdapter):
    """torchvision's blocks: the branch ends at the last norm."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``bn2`` of a basic block, ``bn3`` of a bottleneck."""
        return [block.bn3 if hasattr(block, 'bn3') else block.bn2]


@register_adapter('timm.models.resnet.BasicBlock', 'timm.models.resnet.Bottleneck')
class TimmResNetAdapter(TorchvisionResNetAdapter):
    """timm's blocks: attention and stochastic depth may follow the last norm."""

    def activation(self, block: Any) -> nn.Module:
        """``act2`` of a basic block, ``act3`` of a bottleneck."""
        return block.act3 if hasattr(block, 'act3') else block.act2

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``drop_path``, ``se`` or the last norm: whichever is there and comes last."""
        for later in (block.drop_path, block.se):
            if later is not None:
                return [later]
        return super().residual_ends(block)

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last norm, unless attention follows it, whose gate would see the scale."""
        return list(super().residual_ends(block)) if block.se is None else [block.se]


@register_adapter('mmpretrain.models.backbones.resnet.BasicBlock', 'mmpretrain.models.backbones.resnet.Bottleneck')
class MMPretrainResNetAdapter(_ResNetAdapter):
    """mmpretrain's blocks: stochastic depth follows the last norm."""

    def residual_ends(self, block: Any) -> list[nn.Module]:
        """``drop_path``, an identity if its rate is 0."""
        return [block.drop_path]

    def branch_outputs(self, block: Any) -> list[nn.Module | nn.Parameter]:
        """The last norm."""
        return [block.norm3 if hasattr(block, 'norm3') else block.norm2]
