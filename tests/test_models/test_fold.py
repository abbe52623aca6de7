"""The activation scale folded into weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from mmdet.models.backbones.resnet import Bottleneck
from torch import nn

from resist_mm.models.backbones import PreActBasicBlock
from resist_mm.models.fold import fold_scale
from resist_mm.models.partition import PartitionedStage
from tests.test_models.test_adapters import CASES, input_of, randomised
from tests.test_models.test_any_chain import Affine

REFUSED = {
    'mmdet CSPDarknet': 'Swish',
    'mmdet CSPNeXt': 'DepthwiseSeparableConvModule',
}


@pytest.mark.parametrize('scale', [0.25, 0.3])
@pytest.mark.parametrize('name', CASES)
@torch.no_grad()
def test_a_folded_block_computes_the_same_without_a_scale(name, scale):
    torch.manual_seed(0)
    block = randomised(CASES[name][0]())
    stage = PartitionedStage(nn.ModuleList([block]), first=0)
    stage.scale.fill_(scale)
    inputs = input_of(name)
    before, state = block(*inputs), {key: t.clone() for key, t in block.state_dict().items()}
    if name in REFUSED:
        with pytest.raises(ValueError, match=rf'the stage\[0\] .* cannot be folded exactly: .*({REFUSED[name]})'):
            fold_scale(stage.container)
        assert all(torch.equal(t, state[key]) for key, t in block.state_dict().items())
        assert stage.scale == torch.tensor(scale)
        return
    assert fold_scale(stage.container) == 1
    assert stage.scale == 1
    if scale == 0.25:
        assert torch.equal(block(*inputs), before)
    else:
        torch.testing.assert_close(block(*inputs), before, rtol=1e-5, atol=1e-5)
    plain = CASES[name][0]()
    plain.load_state_dict(block.state_dict())  # strict: no new names
    torch.testing.assert_close(plain.eval()(*inputs), before, rtol=1e-5, atol=1e-5)
    assert fold_scale(stage.container) == 0


class Standardised(nn.Conv2d):
    """Its weight is normalised when it is used."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def _with_plugin() -> nn.Module:
    plugin = dict(cfg=dict(type='ContextBlock', ratio=0.5), position='after_conv3')
    return Bottleneck(8, 2, plugins=[plugin])


def _with_standardised_weights() -> nn.Module:
    block = PreActBasicBlock(4, 4)
    block.conv2 = Standardised(4, 4, 3)
    return block


def _without_weights() -> nn.Module:
    block = Bottleneck(8, 2)
    block.add_module(block.norm3_name, nn.BatchNorm2d(8, affine=False))
    return block


def _tied() -> nn.Module:
    block = Bottleneck(8, 2)
    block.other = block.norm3
    return block


def _normalised(how: Callable[[nn.Module], nn.Module]) -> nn.Module:
    block = PreActBasicBlock(4, 4)
    how(block.conv2)
    return block


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda: Affine(1), 'the whole block is scaled'),
        (_with_plugin, 'ContextBlock at the end of its branch'),
        (_with_standardised_weights, 'Standardised at the end of its branch'),
        (_without_weights, 'has no weight'),
        (_tied, r'the stage\[0\] .*it shares the weights'),
        (
            partial(_normalised, nn.utils.spectral_norm),
            r'the stage\[0\] .* are computed from others \(weight_norm',
        ),
        (partial(_normalised, nn.utils.parametrizations.weight_norm), 'are computed from others'),
    ],
)
def test_what_cannot_be_exact_is_refused(make, reason):
    stage = PartitionedStage(nn.Sequential(make()), first=0)
    stage.scale.fill_(0.5)
    with pytest.raises(ValueError, match=reason):
        fold_scale(stage.container)


def test_a_sub_resnet_has_nothing_to_fold():
    stage = PartitionedStage(nn.Sequential(Affine(1), Affine(2)), first=0)
    stage.hold([0])
    with pytest.raises(ValueError, match='blocks are dropped'):
        fold_scale(stage.container)
