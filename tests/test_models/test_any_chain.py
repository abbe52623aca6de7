"""Chains of blocks wherever they are: paths, containers of every kind, blocks without an adapter, configs."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from mmdet.models import ResNet
from mmdet.models.layers.transformer import DetrTransformerEncoder
from mmengine.registry import MODELS
from torch import nn
from torchvision.models import resnet18

from resist_mm.models import PartitionableResNet
from resist_mm.models.partition import partition, partitioned_stages


class Affine(nn.Module):
    """x -> 2 x + k; without an adapter."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.tensor([float(number)]))

    def forward(self, x: torch.Tensor, times: float = 2.0) -> torch.Tensor:
        return times * x + self.bias


class Model(nn.Module):
    """Its chain is a ModuleList that is looped over, with a keyword argument."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.layers = nn.ModuleList(Affine(k) for k in range(1, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.encoder.layers:
            x = layer(x=x, times=2.0)
        return x


ONE = torch.ones(1)


@pytest.mark.parametrize(
    ('path', 'numbers'),
    [
        ('encoder.layers', [2, 3, 4, 5]),
        ('encoder.layers[:]', [1, 2, 3, 4, 5]),
        ('encoder.layers[1:]', [2, 3, 4, 5]),
        ('encoder.layers[2:4]', [3, 4]),
        ('encoder.layers[:-1]', [1, 2, 3, 4]),
        ('encoder.layers[-2:]', [4, 5]),
    ],
)
def test_a_path_may_have_a_slice(path, numbers):
    model = Model()
    [stage] = partition(model, path)
    assert [block.bias.item() for block in stage.partitioned_blocks] == numbers
    assert partitioned_stages(model) == {'encoder.layers': stage}
    assert stage.gates[0].name == f'encoder.layers[{numbers[0] - 1}]'


def test_blocks_without_an_adapter_are_scaled_by_their_difference_and_dropped_to_the_identity():
    model = Model()
    [stage] = partition(model, ['encoder.layers[3:]'])
    x = ((2 * ONE + 1) * 2 + 2) * 2 + 3  # behind the first three
    assert model(ONE) == (x * 2 + 4) * 2 + 5
    stage.scale.fill_(0.5)
    y = x + 0.5 * (2 * x + 4 - x)
    assert model(ONE) == y + 0.5 * (2 * y + 5 - y)
    stage.hold([1])
    assert model(ONE) == 2 * x + 5
    stage.hold([])
    assert model(ONE) == x


class InPlace(nn.Module):
    """Triples its input where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(self.weight)


@torch.no_grad()
def test_a_block_that_works_in_place_is_scaled_all_the_same():
    [stage] = partition(nn.ModuleDict(dict(chain=nn.Sequential(InPlace(), InPlace()))), 'chain[:]')
    stage.scale.fill_(0.5)
    assert stage.container(torch.ones(1)) == 4


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ('encoder.layer', r"stages names 'encoder.layer', but the Model has no such module; .*\['encoder.layers'"),
        ('encoder.layers[1]', r'stages must be paths such as .*got .encoder.layers\[1\]'),
        (['encoder.layers', 3], r'stages must be paths such as .*got 3'),
        ([], 'stages must name at least one chain'),
        ('encoder.layers[5:]', r'encoder.layers\[5:\] has no block: encoder.layers has 5'),
    ],
)
def test_a_path_that_leads_nowhere_is_an_error_that_says_what_is_there(stages, message):
    model = Model()
    with pytest.raises(ValueError, match=message):
        partition(model, stages)


class Halving(nn.Module):
    """Changes the shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[::2] * self.weight


class Pair(Halving):
    """Gives two tensors."""

    def forward(self, x: torch.Tensor) -> tuple:
        return x, x * self.weight


@pytest.mark.parametrize(
    ('block', 'message'),
    [
        (Halving, r'chain\[1\] (Halving) cannot be partitioned: it maps shape (4,) to shape (2,)'),
        (Pair, r'chain\[1\] (Pair) cannot be partitioned: it maps shape (4,) to a tuple'),
    ],
)
def test_a_block_that_nothing_could_replace_is_an_error_at_the_first_call(block, message):
    model = nn.ModuleDict(dict(chain=nn.Sequential(Affine(1), block(), Affine(2))))
    partition(model, 'chain')
    with pytest.raises(ValueError, match=message.replace('(', r'\(').replace(')', r'\)')):
        model['chain'](torch.ones(4))


def test_layers_of_detr_s_encoder_can_be_partitioned():
    torch.manual_seed(0)
    layer = dict(
        self_attn_cfg=dict(embed_dims=8, num_heads=2, batch_first=True),
        ffn_cfg=dict(embed_dims=8, feedforward_channels=16, num_fcs=2),
    )
    encoder = DetrTransformerEncoder(num_layers=4, layer_cfg=layer).eval()
    model = nn.ModuleDict(dict(encoder=encoder))
    query, position = torch.rand(2, 5, 8), torch.rand(2, 5, 8)
    run = lambda: encoder(query, query_pos=position, key_padding_mask=None)  # noqa: E731
    plain = run()
    [stage] = partition(model, 'encoder.layers')
    assert torch.allclose(run(), plain, atol=1e-6)  # x + (block(x) - x)
    stage.hold([0, 2])
    shallow = copy.deepcopy(encoder)
    del shallow.layers[2]
    assert torch.equal(run(), shallow(query, query_pos=position, key_padding_mask=None))


def test_a_norm_that_was_fused_into_its_convolution_leaves_the_scale_in_place():
    from mmcv.cnn import fuse_conv_bn

    torch.manual_seed(0)
    model = ResNet(18, base_channels=4)
    model.eval()
    [stage] = partition(model, 'layer3')
    stage.scale.fill_(0.25)
    image = torch.rand(1, 3, 32, 32)
    before = model(image)[0]
    fused = fuse_conv_bn(copy.deepcopy(model))
    assert any(isinstance(module, nn.Identity) for module in fused.modules())
    torch.testing.assert_close(fused(image)[0], before)


def test_a_sub_resnet_of_a_torchvision_model_is_the_shallower_network():
    torch.manual_seed(0)
    model = resnet18()
    names = list(dict(model.named_parameters()))
    [stage] = partition(model, 'layer3')
    assert list(dict(model.named_parameters())) == names
    assert 'layer3.scale' in model.state_dict()
    shallow = copy.deepcopy(resnet18())
    shallow.load_state_dict({k: v for k, v in model.state_dict().items() if k != 'layer3.scale'})
    del shallow.layer3[1]
    stage.hold([])
    image = torch.rand(2, 3, 64, 64)
    assert torch.equal(model(image), shallow(image))


SMALL = dict(depth=18, base_channels=4, norm_eval=False)


def test_plain_resnet_partitionable_resnet_and_the_partition_of_a_config_give_the_same_numbers():
    torch.manual_seed(0)
    plain = ResNet(**SMALL)
    by_class = PartitionableResNet(**SMALL)
    backbone = dict(type='mmdet.ResNet', **SMALL)
    by_config = MODELS.build(dict(type='resist_mm.Partitioned', model=backbone, stages='layer3'))
    assert type(by_config) is ResNet
    assert list(by_config.state_dict()) == list(by_class.state_dict())
    for model in (by_class, by_config):
        model.load_state_dict(plain.state_dict())
    image = torch.rand(2, 3, 64, 64)
    expected = [plain(image)] * 2
    assert all(torch.equal(a, b) for a, b in zip(by_class(image), by_config(image), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(expected[0], by_class(image), strict=True))
    for model in (by_class, by_config):
        model.layer3.partitioned_stage.scale.fill_(0.5)
    assert all(torch.equal(a, b) for a, b in zip(by_class(image), by_config(image), strict=True))
    by_class.load_state_dict(by_config.state_dict())
    assert by_class.layer3.scale == 0.5


def test_a_whole_detector_can_be_partitioned_in_a_config():
    backbone = dict(type='mmdet.ResNet', **SMALL, num_stages=4)
    inner = dict(type='mmdet.FPN', in_channels=[16, 32, 64, 128], out_channels=8, num_outs=4)
    head = dict(type='mmdet.RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=3)
    detector = dict(type='mmdet.RetinaNet', backbone=backbone, neck=inner, bbox_head=head)
    model = MODELS.build(dict(type='resist_mm.Partitioned', model=detector, stages=['backbone.layer3']))
    assert list(partitioned_stages(model)) == ['backbone.layer3']
    with pytest.raises(ValueError, match=re.escape("'backbone.layer5'")):
        MODELS.build(dict(type='resist_mm.Partitioned', model=detector, stages=['backbone.layer5']))
