"""Adapters of residual blocks: what a partitioned block computes, against formulas written out."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.backbones.darknet import ResBlock
from mmdet.models.backbones.detectors_resnet import Bottleneck as RFPBottleneck
from mmdet.models.backbones.pvt import PVTEncoderLayer
from mmdet.models.backbones.res2net import Bottle2neck
from mmdet.models.backbones.resnest import Bottleneck as ResNeStBottleneck
from mmdet.models.backbones.resnext import Bottleneck as ResNeXtBottleneck
from mmdet.models.backbones.swin import SwinBlock
from mmdet.models.backbones.trident_resnet import TridentBottleneck
from mmdet.models.layers import InvertedResidual
from mmdet.models.layers.csp_layer import CSPNeXtBlock, DarknetBottleneck
from torch import nn
from torchvision.models import convnext, efficientnet, mobilenetv2, regnet, resnet, swin_transformer
from torchvision.models import vision_transformer as vit

from resist_mm.models.adapters import BlockAdapter, adapter_of, register_adapter
from resist_mm.models.partition import PartitionedStage

NORM = partial(nn.BatchNorm2d, eps=1e-3)
LAYER_NORM = partial(nn.LayerNorm, eps=1e-6)


def mbconv(config: type = efficientnet.MBConvConfig, stride: int = 1) -> nn.Module:
    setting = config(2, 3, stride, 8, 8, 1)
    return setting.block(setting, stochastic_depth_prob=0.0, norm_layer=NORM)


def res_bottleneck(stride: int = 1, width: int = 8, activation: type = nn.ReLU) -> nn.Module:
    return regnet.ResBottleneckBlock(8, width, stride, NORM, activation, group_width=4, se_ratio=0.25)


def silu_bottleneck() -> nn.Module:
    block = resnet.Bottleneck(8, 2)
    block.relu = nn.SiLU(inplace=True)
    return block


# a block, and s, x -> its output with the factor s, as its own forward would be written
CASES: dict[str, tuple] = {
    'torchvision BasicBlock': (
        partial(resnet.BasicBlock, 8, 8),
        lambda b, s, x: F.relu(x + s * b.bn2(b.conv2(F.relu(b.bn1(b.conv1(x)))))),
    ),
    'torchvision BasicBlock, projection': (
        lambda: resnet.BasicBlock(8, 16, 2, nn.Conv2d(8, 16, 1, 2)),
        lambda b, s, x: F.relu(b.downsample(x) + s * b.bn2(b.conv2(F.relu(b.bn1(b.conv1(x)))))),
    ),
    'torchvision Bottleneck': (
        partial(resnet.Bottleneck, 8, 2),
        lambda b, s, x: F.relu(x + s * b.bn3(b.conv3(F.relu(b.bn2(b.conv2(F.relu(b.bn1(b.conv1(x))))))))),
    ),
    'torchvision Bottleneck, SiLU': (
        silu_bottleneck,
        lambda b, s, x: F.silu(x + s * b.bn3(b.conv3(F.silu(b.bn2(b.conv2(F.silu(b.bn1(b.conv1(x))))))))),
    ),
    'torchvision RegNet': (res_bottleneck, lambda b, s, x: F.relu(x + s * b.f(x))),
    'torchvision RegNet, projection': (
        partial(res_bottleneck, 2, 16),
        lambda b, s, x: F.relu(b.proj(x) + s * b.f(x)),
    ),
    'torchvision RegNet, SiLU': (
        partial(res_bottleneck, activation=nn.SiLU),
        lambda b, s, x: F.silu(x + s * b.f(x)),
    ),
    'torchvision RegNet, SiLU, projection': (
        partial(res_bottleneck, 2, 16, nn.SiLU),
        lambda b, s, x: F.silu(b.proj(x) + s * b.f(x)),
    ),
    'torchvision ConvNeXt': (
        partial(convnext.CNBlock, 8, layer_scale=0.5, stochastic_depth_prob=0.0, norm_layer=LAYER_NORM),
        lambda b, s, x: x + s * b.layer_scale * b.block(x),
    ),
    'torchvision MBConv': (mbconv, lambda b, s, x: x + s * b.block(x)),
    'torchvision FusedMBConv': (
        partial(mbconv, efficientnet.FusedMBConvConfig),
        lambda b, s, x: x + s * b.block(x),
    ),
    'torchvision MobileNetV2': (
        partial(mobilenetv2.InvertedResidual, 8, 8, 1, 2),
        lambda b, s, x: x + s * b.conv(x),
    ),
    'torchvision ViT': (
        partial(vit.EncoderBlock, 2, 8, 16, 0.0, 0.0),
        lambda b, s, x: (y := x + s * attention(b, x)) + s * b.mlp(b.ln_2(y)),
    ),
    'torchvision Swin': (
        partial(swin_transformer.SwinTransformerBlock, 8, 2, [2, 2], [1, 1]),
        lambda b, s, x: (y := x + s * b.attn(b.norm1(x))) + s * b.mlp(b.norm2(y)),
    ),
    'torchvision Swin V2': (
        partial(swin_transformer.SwinTransformerBlockV2, 8, 2, [2, 2], [1, 1]),
        lambda b, s, x: (y := x + s * b.norm1(b.attn(x))) + s * b.norm2(b.mlp(y)),
    ),
    'mmdet ResNeXt': (
        partial(ResNeXtBottleneck, 8, 2, groups=1, base_width=4),
        lambda b, s, x: F.relu(x + s * b.norm3(b.conv3(F.relu(b.norm2(b.conv2(F.relu(b.norm1(b.conv1(x))))))))),
    ),
    'mmdet Res2Net': (partial(Bottle2neck, 8, 2, scales=2, base_width=32), None),
    'mmdet ResNeSt': (partial(ResNeStBottleneck, 8, 2, groups=1, base_width=4, radix=2), None),
    'mmdet Darknet': (partial(ResBlock, 8), lambda b, s, x: x + s * b.conv2(b.conv1(x))),
    'mmdet CSPDarknet': (partial(DarknetBottleneck, 8, 8), lambda b, s, x: x + s * b.conv2(b.conv1(x))),
    'mmdet CSPNeXt': (partial(CSPNeXtBlock, 8, 8), lambda b, s, x: x + s * b.conv2(b.conv1(x))),
    'mmdet InvertedResidual': (
        partial(InvertedResidual, 8, 8, 16),
        lambda b, s, x: x + s * b.linear_conv(b.depthwise_conv(b.expand_conv(x))),
    ),
    'mmdet Swin': (
        partial(SwinBlock, 8, 2, 16, window_size=2),
        lambda b, s, x: (y := x + s * b.attn(b.norm1(x), (4, 4))) + s * b.ffn.layers(b.norm2(y)),
    ),
    'mmdet PVT': (
        partial(PVTEncoderLayer, 8, 2, 16, sr_ratio=2),
        lambda b, s, x: (
            (y := x + s * without_shortcut(b.attn, b.norm1(x))) + s * without_shortcut(b.ffn, b.norm2(y))
        ),
    ),
}


def without_shortcut(branch: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return branch(x, (4, 4), identity=torch.zeros_like(x))


def attention(block: nn.Module, x: torch.Tensor) -> torch.Tensor:
    normed = block.ln_1(x)
    return block.self_attention(normed, normed, normed, need_weights=False)[0]


def input_of(name: str) -> tuple:
    if name in ('mmdet Swin', 'mmdet PVT'):
        return torch.rand(2, 16, 8), (4, 4)
    if name == 'torchvision ViT':
        return (torch.rand(2, 5, 8),)
    if name.startswith('torchvision Swin'):
        return (torch.rand(2, 4, 4, 8),)
    return (torch.rand(2, 8, 6, 6),)


def randomised(block: nn.Module) -> nn.Module:
    """In evaluation, with norms that change something and no branch that is 0."""
    for module in block.modules():
        if getattr(module, 'running_mean', None) is not None:
            nn.init.normal_(module.running_mean, std=0.1)
    for p in block.parameters():
        nn.init.normal_(p, std=0.3)
    return block.eval()


@pytest.mark.parametrize('name', CASES)
@torch.no_grad()
def test_a_block_of_a_known_kind_is_scaled_and_skipped_as_its_formula_says(name):
    torch.manual_seed(0)
    make, formula = CASES[name]
    block = randomised(make())
    inputs = input_of(name)
    plain = block(*inputs)
    if formula is not None:
        expected = {s: formula(block, s, inputs[0]) for s in (0.0, 0.3, 1.0)}
        torch.testing.assert_close(plain, expected[1.0])
    stage = PartitionedStage(nn.ModuleList([block]), first=0)
    assert not stage.gates[0].generic
    assert torch.equal(block(*inputs), plain), 'with the scale 1 it is the plain block, bit by bit'
    stage.scale.fill_(0.3)
    scaled = block(*inputs)
    assert not torch.allclose(scaled, plain, atol=1e-3)
    if formula is not None:
        torch.testing.assert_close(scaled, expected[0.3])
    stage.scale.fill_(0.0)
    without_branch = block(*inputs)
    stage.hold([0])
    assert torch.equal(block(*inputs), plain), 'inside a sub-ResNet the factor is 1'
    stage.hold([])
    given = inputs[0].clone()
    torch.testing.assert_close(block(*inputs), without_branch)
    assert torch.equal(inputs[0], given), 'an activation in place does not reach the input'
    if formula is not None:
        torch.testing.assert_close(without_branch, expected[0.0])


@pytest.mark.parametrize(
    ('block', 'reason'),
    [
        (partial(mbconv, stride=2), 'has no shortcut'),
        (partial(mobilenetv2.InvertedResidual, 8, 16, 1, 2), 'has no shortcut'),
        (partial(InvertedResidual, 8, 16, 16), 'has no shortcut'),
        (partial(DarknetBottleneck, 8, 8, add_identity=False), 'no shortcut'),
        (partial(CSPNeXtBlock, 8, 8, add_identity=False), 'no shortcut'),
        (partial(RFPBottleneck, 8, 2, rfp_inplanes=4), 'recursive feature pyramid'),
    ],
)
def test_a_block_that_is_no_residual_block_is_refused(block, reason):
    with pytest.raises(ValueError, match=rf'the stage\[0\] .* cannot be partitioned: .*{reason}'):
        PartitionedStage(nn.Sequential(block()), first=0)


def test_a_subclass_with_a_forward_of_its_own_has_not_the_adapter_of_its_base():
    assert type(adapter_of(TridentBottleneck((1, 2, 3), 1, False, inplanes=8, planes=2))) is BlockAdapter
    assert type(adapter_of(ResNeXtBottleneck(8, 2))) is not BlockAdapter


class Doubling(nn.Module):
    """x + tanh(2 x), by a name that no other test uses."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 2.0))
        self.end = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.end(x * self.weight)


def test_somebody_else_registers_an_adapter_by_the_name_of_a_class():
    x = torch.rand(3)
    generic = PartitionedStage(nn.Sequential(Doubling()), first=0)
    assert generic.gates[0].generic

    @register_adapter(f'{Doubling.__module__}.Doubling')
    class DoublingAdapter(BlockAdapter):
        def residual_ends(self, block):
            return [block.end]

    known = PartitionedStage(nn.Sequential(Doubling()), first=0)
    assert not known.gates[0].generic
    for stage in (generic, known):
        stage.scale.fill_(0.25)
        torch.testing.assert_close(stage.container(x), x + 0.25 * torch.tanh(2 * x))
