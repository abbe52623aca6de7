"""What a model offers to deal out: shares worked out by hand. test_convert/test_page.py runs the command."""

from __future__ import annotations

import sys

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torchvision.models.resnet import BasicBlock

from resist_mm.analysis.list_stages import flops_of_blocks, list_stages, main, recommendation
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


def run_list_stages(monkeypatch: pytest.MonkeyPatch, config: object) -> None:
    monkeypatch.setattr(
        sys, 'argv', ['list_stages.py', str(config), '--image-size', '64', '64', '--workers', '2', '99']
    )
    main()


def test_what_the_model_partitions_by_itself_is_not_to_be_named(monkeypatch, capsys, tmp_path):
    pytest.importorskip('mmdet')
    backbone = dict(type='resist_mm.PartitionableResNet', depth=50, base_channels=8)
    cfg = Config(dict(model=dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=5)))
    cfg.dump(tmp_path / 'a.py')
    run_list_stages(monkeypatch, tmp_path / 'a.py')
    *_, two, many = capsys.readouterr().out.splitlines()
    assert two == (
        '--resist with 2 workers: backbone.layer3, which the model partitions by itself (leave out stages=); '
        'min_blocks=1, 5 blocks to deal out'
    )
    assert many.startswith('--resist with 99 workers: backbone.layer3')


@pytest.mark.parametrize('hook', ['resist_mm.ResISTHook', 'MeanTeacherHook'])
def test_what_resist_refuses_is_not_recommended(monkeypatch, capsys, tmp_path, hook):
    pytest.importorskip('mmdet')
    backbone = dict(type='mmdet.ResNet', depth=50, base_channels=8)
    model = dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=5)
    Config(dict(model=model, custom_hooks=[dict(type=hook)])).dump(tmp_path / 'a.py')
    with pytest.raises(SystemExit, match=rf'--resist: custom_hooks\.0.* is a {hook.split(".")[-1]}'):
        run_list_stages(monkeypatch, tmp_path / 'a.py')
    out = capsys.readouterr().out
    assert 'backbone.layer3' in out and 'with 2 workers' not in out


def test_a_model_with_too_few_blocks():
    pytest.importorskip('mmdet')
    model = nn.ModuleDict(dict(backbone=nn.ModuleDict(dict(layer3=nn.Sequential(BasicBlock(3, 3))))))
    assert 'would hold all of the 1 partitioned block, which is local SGD' in recommendation(model, 2)
