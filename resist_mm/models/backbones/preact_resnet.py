"""Pre-activation ResNet with a partitioned stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from mmcv.cnn import build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from resist_mm.registry import MODELS

from .preact_blocks import PreActBasicBlock, PreActBottleneck
from .stages import partition_stages_of
from .weight_init import INIT_CFGS, check_init

__all__ = ['PreActResNet']

BLOCKS = dict(basic=PreActBasicBlock, bottleneck=PreActBottleneck)


@MODELS.register_module()
class PreActResNet(BaseModule):
    """Pre-activation ResNet whose stages can be dealt out by blocks (ResIST, Sec. 2.1).

    He et al., "Identity Mappings in Deep Residual Networks", arXiv:1603.05027.
    ``depth`` means mmdet's layouts. The paper's CIFAR networks are basic blocks
    in bottleneck layouts: ``depth=101, block='basic'`` is its "ResNet101",
    ``stage_blocks=(3, 4, 36, 3), block='basic'`` its "ResNet152".

    Args:
        depth (int, optional): One of 18, 34, 50, 101, 152; sets ``block`` and
            ``stage_blocks`` if they are not given.
        block (str, optional): 'basic' (two 3x3 convolutions) or 'bottleneck'.
        stage_blocks (Sequence[int], optional): Number of blocks of every stage.
        stem (str): 'imagenet' (7x7 convolution at stride 2, norm, ReLU, max
            pool) or 'cifar' (3x3 convolution at stride 1). Defaults to 'imagenet'.
        final_norm (bool): Whether every output passes through a norm and a ReLU; the
            authors' CIFAR scripts have none. Defaults to True.
        in_channels (int): Channels of the image. Defaults to 3.
        stem_channels (int, optional): Channels of the stem. Defaults to
            ``base_channels``.
        base_channels (int): Width of the first stage; it doubles with every
            stage. Defaults to 64.
        num_stages (int): Number of stages, 1 to 4. Defaults to 4.
        strides (Sequence[int]): Stride of each stage. Defaults to (1, 2, 2, 2).
        dilations (Sequence[int]): Dilation of each stage. Defaults to (1, 1, 1, 1).
        out_indices (Sequence[int]): Stages whose outputs are returned, from 0.
            Defaults to (0, 1, 2, 3).
        frozen_stages (int): Stages that are not trained: 0 the stem, i the stem
            and the stages up to i, -1 none. Defaults to -1.
        conv_cfg (dict, optional): Config of the convolutions.
        norm_cfg (dict): Config of the norms. Defaults to BN.
        norm_eval (bool): Whether BatchNorm keeps its running statistics in
            training. Defaults to False; mmdet's ResNet has True.
        with_cp (bool): Whether blocks are recomputed in the backward pass.
            Defaults to False.
        partition_stages (Sequence[str]): Stages whose blocks are dealt out.
            Defaults to ('layer3',).
        partition_first (bool): Whether the first, strided block of these stages
            is dealt out too (its residual branch). Defaults to False.
        init (str): Initial weights of convolutions if ``init_cfg`` is None: 'kaiming'
            (normal, by fan-out, as in mmdet's ResNet) or 'torch' (PyTorch's own, uniform by
            fan-in, as in the authors' CIFAR scripts; 2.45 times narrower where both fans are
            equal). Weights of norms start at 1. Defaults to 'kaiming'.
        init_cfg (dict or list[dict], optional): Replaces ``init``. Defaults to None.

    Raises:
        ValueError: If the layout is not known, incomplete or contradictory, a stage of
            ``partition_stages`` does not exist or is too short, or ``init`` is not known.

    Example:
        >>> import torch
        >>> backbone = PreActResNet(stage_blocks=(1, 1, 3, 1), block='basic', stem='cifar')
        >>> [tuple(out.shape) for out in backbone(torch.rand(1, 3, 32, 32))]
        [(1, 64, 32, 32), (1, 128, 16, 16), (1, 256, 8, 8), (1, 512, 4, 4)]
    """

    arch_settings = {
        18: ('basic', (2, 2, 2, 2)),
        34: ('basic', (3, 4, 6, 3)),
        50: ('bottleneck', (3, 4, 6, 3)),
        101: ('bottleneck', (3, 4, 23, 3)),
        152: ('bottleneck', (3, 8, 36, 3)),
    }

    def __init__(
        self,
        depth: int | None = None,
        block: str | None = None,
        stage_blocks: Sequence[int] | None = None,
        stem: str = 'imagenet',
        final_norm: bool = True,
        in_channels: int = 3,
        stem_channels: int | None = None,
        base_channels: int = 64,
        num_stages: int = 4,
        strides: Sequence[int] = (1, 2, 2, 2),
        dilations: Sequence[int] = (1, 1, 1, 1),
        out_indices: Sequence[int] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        with_cp: bool = False,
        partition_stages: Sequence[str] = ('layer3',),
        partition_first: bool = False,
        init: str = 'kaiming',
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        check_init(init)
        super().__init__(INIT_CFGS[init] if init_cfg is None else init_cfg)
        block, stage_blocks = self._layout(depth, block, stage_blocks)
        self.stage_blocks = tuple(stage_blocks[:num_stages])
        _check_per_stage(num_stages, self.stage_blocks, strides, dilations, out_indices)
        self.out_indices = tuple(out_indices)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.conv_cfg = conv_cfg
        self.norm_cfg = norm_cfg or dict(type='BN')

        channels = stem_channels or base_channels
        self._make_stem(stem, in_channels, channels)
        self.res_layers: list[str] = []
        for i, num_blocks in enumerate(self.stage_blocks):
            stage = _make_stage(
                BLOCKS[block],
                channels,
                base_channels * 2**i,
                num_blocks,
                strides[i],
                dilation=dilations[i],
                with_cp=with_cp,
                conv_cfg=self.conv_cfg,
                norm_cfg=self.norm_cfg,
            )
            channels = base_channels * 2**i * BLOCKS[block].expansion
            self.res_layers.append(f'layer{i + 1}')
            self.add_module(self.res_layers[-1], stage)
            if final_norm and i in self.out_indices:
                self.add_module(f'final_norm{i + 1}', build_norm_layer(self.norm_cfg, channels)[1])
        self.feat_dim = channels
        partition_stages_of(self, partition_stages, partition_first)
        self._freeze_stages()

    def _layout(
        self, depth: int | None, block: str | None, stage_blocks: Sequence[int] | None
    ) -> tuple[str, Sequence[int]]:
        if depth is not None and depth not in self.arch_settings:
            raise ValueError(
                f'depth={depth} is not one of {list(self.arch_settings)}: for another layout give '
                "block='basic' or 'bottleneck' and stage_blocks=(...)"
            )
        if depth is not None:
            default_block, default_stage_blocks = self.arch_settings[depth]
            block, stage_blocks = block or default_block, stage_blocks or default_stage_blocks
        if block is None or stage_blocks is None:
            raise ValueError(
                f'without depth, both block and stage_blocks are needed, got {block=}, {stage_blocks=}'
            )
        if block not in BLOCKS:
            raise ValueError(f'block must be one of {list(BLOCKS)}, got {block!r}')
        return block, stage_blocks

    def _make_stem(self, stem: str, in_channels: int, channels: int) -> None:
        if stem == 'imagenet':
            self.stem = Sequential(
                build_conv_layer(self.conv_cfg, in_channels, channels, 7, stride=2, padding=3, bias=False),
                build_norm_layer(self.norm_cfg, channels)[1],
                nn.ReLU(inplace=True),
                nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
            )
        elif stem == 'cifar':
            self.stem = Sequential(
                build_conv_layer(self.conv_cfg, in_channels, channels, 3, stride=1, padding=1, bias=False)
            )
        else:
            raise ValueError(f"stem must be 'imagenet' or 'cifar', got {stem!r}")

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Extract features.

        Args:
            x (Tensor): Images of shape (N, in_channels, H, W).

        Returns:
            tuple[Tensor, ...]: The outputs of the stages in ``out_indices``, each
            of shape (N, C_i, H_i, W_i).
        """
        x = self.stem(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                norm = getattr(self, f'final_norm{i + 1}', None)
                outs.append(x if norm is None else F.relu(norm(x)))
        return tuple(outs)

    def train(self, mode: bool = True) -> PreActResNet:
        """Switch to training mode; frozen stages and, with ``norm_eval``, BatchNorm stay in eval mode."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        names = ['stem']
        for i in range(1, self.frozen_stages + 1):
            names += [f'layer{i}', f'final_norm{i}']
        for module in (getattr(self, name) for name in names if hasattr(self, name)):
            module.eval()
            for param in module.parameters():
                param.requires_grad = False


def _make_stage(
    block: type[PreActBasicBlock | PreActBottleneck],
    in_channels: int,
    planes: int,
    num_blocks: int,
    stride: int,
    **options: Any,
) -> Sequential:
    first = block(in_channels, planes, stride=stride, **options)
    rest = (block(planes * block.expansion, planes, **options) for _ in range(num_blocks - 1))
    return Sequential(first, *rest)


def _check_per_stage(
    num_stages: int,
    stage_blocks: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
    out_indices: Sequence[int],
) -> None:
    if not 1 <= num_stages <= 4:
        raise ValueError(f'num_stages must be between 1 and 4, got {num_stages}')
    for name, values in (('stage_blocks', stage_blocks), ('strides', strides), ('dilations', dilations)):
        if len(values) < num_stages:
            raise ValueError(f'{name} must have one number for each of {num_stages} stages, got {values}')
    if not out_indices or min(out_indices) < 0 or max(out_indices) >= num_stages:
        raise ValueError(f'out_indices must lie between 0 and {num_stages - 1}, got {tuple(out_indices)}')
