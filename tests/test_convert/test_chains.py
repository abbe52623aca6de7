"""Finding the chains of blocks of a model, and choosing among them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import convnext_tiny, densenet121, mobilenet_v2, resnet50, vgg11
from torchvision.models.resnet import BasicBlock

from resist_mm.convert.chains import find_chains
from resist_mm.convert.choice import check_is_no_local_sgd, choose_chains, choose_min_blocks
from resist_mm.models.partition import partition


def on_meta(builder, *args, **kwargs):
    with torch.device('meta'):
        return builder(*args, **kwargs)


def paths(model):
    return {chain.path: (chain.num_partitioned, chain.num_blocks) for chain in find_chains(model)}


def test_convnext():
    found = {f'features.{i}[:]': (n, n) for i, n in ((1, 3), (3, 3), (5, 9), (7, 3))}
    assert paths(on_meta(convnext_tiny)) == found


class Model(nn.Module):
    def __init__(self, backbone, neck=None):
        super().__init__()
        self.backbone = backbone
        self.neck = neck or nn.Identity()


def test_the_stages_of_a_resnet_with_their_projections_shared():
    found = paths(on_meta(resnet50))
    assert found == {'layer1': (2, 3), 'layer2': (3, 4), 'layer3': (5, 6), 'layer4': (2, 3)}


def test_every_path_is_one_that_partition_takes_with_these_blocks():
    for builder in (resnet50, mobilenet_v2):
        model = on_meta(builder)
        for chain in find_chains(model):
            (stage,) = partition(model, chain.path)
            assert tuple(stage.partitioned_blocks) == chain.blocks


def test_a_first_block_that_keeps_the_shape_is_dealt_out_too():
    blocks = [BasicBlock(4, 4) for _ in range(3)]
    assert paths(nn.ModuleDict(dict(a=nn.Sequential(*blocks)))) == {'a[:]': (3, 3)}
    behind = nn.Sequential(nn.Conv2d(3, 4, 1), *blocks, nn.ReLU())
    assert paths(nn.ModuleDict(dict(a=behind))) == {'a[1:4]': (3, 3)}


def test_refused_and_frozen_blocks_do_not_count():
    found = paths(on_meta(mobilenet_v2))
    assert found['features[8:11]'] == (3, 3), 'the longest run: blocks 8, 9, 10 follow the strided block 7'
    model = on_meta(resnet50)
    model.layer3.requires_grad_(False)
    model.layer2[0].requires_grad_(False)
    assert paths(model) == {'layer1': (2, 3), 'layer2': (3, 3), 'layer4': (2, 3)}


def test_blocks_without_an_adapter_are_listed_but_never_chosen():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, batch_first=True), num_layers=4)
    heads = nn.ModuleList([nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()) for _ in range(4)])
    model = nn.ModuleDict(dict(encoder=encoder, heads=heads))
    (chain,) = find_chains(model)
    assert (chain.path, chain.adapter, chain.num_partitioned) == ('encoder.layers[:]', None, 4)
    with pytest.raises(ValueError, match=r'encoder\.layers\[:\] \(TransformerEncoderLayer\); if so, name them'):
        choose_chains(model, 2)


@pytest.mark.parametrize('builder', [vgg11, densenet121])
def test_networks_without_residual_blocks(builder):
    with pytest.raises(ValueError, match='has no chain of residual blocks'):
        choose_chains(Model(on_meta(builder)), 4)


def test_what_lies_outside_of_the_backbone_is_not_chosen():
    neck = nn.Sequential(*(BasicBlock(4, 4) for _ in range(4)))
    assert [c.path for c in choose_chains(Model(on_meta(resnet50), neck), 2).chains] == ['backbone.layer3']
    with pytest.raises(ValueError, match='VGG has no chain'):
        choose_chains(Model(on_meta(vgg11), neck), 2)


@pytest.mark.parametrize(
    ('workers', 'stages', 'said'),
    [
        (2, ['layer3'], 'the stage of the paper, has 5 partitioned blocks'),
        (3, ['layer2', 'layer3'], 'also backbone.layer2 (3), because 3 workers should have 6 blocks'),
        (5, ['layer2', 'layer3', 'layer4'], 'backbone.layer4 (2)'),
        (8, ['layer1', 'layer2', 'layer3', 'layer4'], 'no more than 12 partitioned blocks for 8 workers'),
    ],
)
def test_resnet50_takes_further_stages_and_says_so(workers, stages, said):
    chains, reasons = choose_chains(Model(on_meta(resnet50)), workers)
    assert [chain.path for chain in chains] == [f'backbone.{stage}' for stage in stages]
    assert any(said in reason for reason in reasons), reasons
    assert any('stays shared' in reason for reason in reasons)


def test_another_family_s_layer3_is_not_preferred():
    backbone = nn.Module()
    backbone.layer3 = on_meta(mobilenet_v2).features[8:10]
    backbone.layer4 = on_meta(mobilenet_v2).features[8:11]
    assert [chain.path for chain in choose_chains(Model(backbone), 1).chains] == ['backbone.layer4[:]']


@pytest.mark.parametrize(('blocks', 'least'), [(1, 1), (5, 1), (8, 2), (14, 3), (22, 5), (50, 5)])
def test_min_blocks(blocks, least):
    assert choose_min_blocks(blocks) == least


@pytest.mark.parametrize(('blocks', 'workers', 'least'), [(1, 2, 1), (5, 4, 5)])
def test_local_sgd_by_accident_is_an_error(blocks, workers, least):
    with pytest.raises(ValueError, match=rf'min_blocks={least} each of the {workers} workers .* local SGD'):
        check_is_no_local_sgd(blocks, workers, least)
    assert sorted(check_is_no_local_sgd(5, 2, 1)) == [2, 3]
