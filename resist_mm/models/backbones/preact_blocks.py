"""Residual blocks with pre-activation.

He, Zhang, Ren, Sun, "Identity Mappings in Deep Residual Networks", ECCV 2016,
arXiv:1603.05027.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ['PreActBasicBlock', 'PreActBlock', 'PreActBottleneck']


class _Conv(NamedTuple):
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1


class PreActBlock(BaseModule):
    """Norm, ReLU, convolution in sequence, added to the shortcut.

    The shortcut of a block that changes the shape is a 1x1 convolution of the
    pre-activated input.

    Args:
        in_channels (int): Channels of the input.
        planes (int): Width of the block; the output has ``planes * expansion``
            channels.
        stride (int): Stride of the block. Defaults to 1.
        dilation (int): Dilation of the 3x3 convolutions. Defaults to 1.
        with_cp (bool): Whether to save memory by recomputing the block in the
            backward pass. Defaults to False.
        conv_cfg (dict, optional): Config of the convolutions.
        norm_cfg (dict, optional): Config of the norms. Defaults to BN.
    """

    expansion: int

    def __init__(
        self,
        in_channels: int,
        planes: int,
        stride: int = 1,
        dilation: int = 1,
        with_cp: bool = False,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
    ) -> None:
        super().__init__()
        self.with_cp = with_cp
        convs = self._convs(in_channels, planes, stride, dilation)
        self.num_convs = len(convs)
        for i, conv in enumerate(convs, start=1):
            self.add_module(f'norm{i}', build_norm_layer(norm_cfg or dict(type='BN'), conv.in_channels)[1])
            self.add_module(f'conv{i}', _build_conv(conv, conv_cfg))
        self.downsample: nn.Module | None = None
        if stride != 1 or in_channels != convs[-1].out_channels:
            shortcut = _Conv(in_channels, convs[-1].out_channels, kernel_size=1, stride=stride)
            self.downsample = _build_conv(shortcut, conv_cfg)

    @staticmethod
    def _convs(in_channels: int, planes: int, stride: int, dilation: int) -> list[_Conv]:
        raise NotImplementedError

    def preactivate(self, x: Tensor) -> Tensor:
        """Norm and ReLU before the first convolution."""
        return F.relu(self.norm1(x), inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, planes * expansion, H / stride, W / stride)."""
        if self.with_cp and x.requires_grad:
            return checkpoint(self._forward, x, use_reentrant=False)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        out = self.preactivate(x)
        shortcut = x if self.downsample is None else self.downsample(out)
        out = self.conv1(out)
        for i in range(2, self.num_convs + 1):
            out = F.relu(getattr(self, f'norm{i}')(out), inplace=True)
            out = getattr(self, f'conv{i}')(out)
        return shortcut + out


class PreActBasicBlock(PreActBlock):
    """Two 3x3 convolutions, each after a norm and a ReLU; arguments as for :class:`PreActBlock`."""

    expansion = 1

    @staticmethod
    def _convs(in_channels: int, planes: int, stride: int, dilation: int) -> list[_Conv]:
        return [
            _Conv(in_channels, planes, 3, stride, dilation),
            _Conv(planes, planes, 3, 1, dilation),
        ]


class PreActBottleneck(PreActBlock):
    """1x1, 3x3 and 1x1 convolutions, four times as wide outside; arguments as for :class:`PreActBlock`."""

    expansion = 4

    @staticmethod
    def _convs(in_channels: int, planes: int, stride: int, dilation: int) -> list[_Conv]:
        return [
            _Conv(in_channels, planes, 1),
            _Conv(planes, planes, 3, stride, dilation),
            _Conv(planes, planes * PreActBottleneck.expansion, 1),
        ]


def _build_conv(conv: _Conv, conv_cfg: dict | None) -> nn.Module:
    return build_conv_layer(
        conv_cfg,
        conv.in_channels,
        conv.out_channels,
        conv.kernel_size,
        stride=conv.stride,
        padding=conv.dilation * (conv.kernel_size // 2),
        dilation=conv.dilation,
        bias=False,
    )
