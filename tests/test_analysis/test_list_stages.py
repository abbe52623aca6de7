"""What a model offers to deal out: shares worked out by hand. test_convert/test_page.py runs the command."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock

from resist_mm.analysis.list_stages import flops_of_blocks, list_stages
from resist_mm.convert.chains import find_chains
from tests.test_tools.commands import start_tool


class Model(nn.Module):
    """A stem of 1x1 convolutions and blocks of two 3x3 convolutions: 2 * 9 / 1 times its FLOPs each."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(*(BasicBlock(3, 3) for _ in range(3))))
        self.encoder = nn.ModuleList([nn.TransformerEncoderLayer(4, 2, 8) for _ in range(2)])


@pytest.mark.parametrize('device', ['meta', 'cpu'])
def test_shares(device):
    with torch.device(device):
        model = Model()
    chain, encoder = list_stages(model, (8, 6))
    assert (chain.chain.path, encoder.chain.path) == ('backbone.1[:]', 'encoder[:]')
    per_block = 2 * 3 * 3 * 9 + 4 * 3
    whole = sum(p.numel() for p in model.parameters())
    assert chain.parameters == per_block
    assert chain.parameter_share == pytest.approx(3 * per_block / whole)
    assert chain.flops_share == pytest.approx(3 * 18 / (3 * 18 + 1))
    assert encoder.flops_share is None, 'the forward pass of the backbone says nothing about it'


def test_flops_in_numbers_and_nothing_is_left_behind():
    model = Model()
    chains = find_chains(model)
    total, flops = flops_of_blocks(model, chains, (8, 6))
    block = 2 * (8 * 6) * (3 * 3 * 9) * 2  # a multiplication and an addition, twice
    assert [flops[b] for b in chains[0].blocks] == [block] * 3
    assert total == 3 * block + 2 * (8 * 6) * (3 * 3)
    assert model.backbone.training
    assert not any(b._forward_hooks or b._forward_pre_hooks for b in chains[0].blocks)


def test_a_backbone_that_needs_more_than_an_image():
    model = nn.ModuleDict(dict(backbone=nn.ModuleList([BasicBlock(3, 3) for _ in range(2)])))
    (row,) = list_stages(model, (8, 6))
    assert row.flops_share is None


def test_what_offers_nothing():
    pytest.importorskip('mmdet')
    result = start_tool('analysis_tools/list_stages.py', 'mmdet::ssd/ssd300_coco.py')
    assert result.returncode == 1
    assert '--resist: SSDVGG has no chain of residual blocks' in result.stdout
