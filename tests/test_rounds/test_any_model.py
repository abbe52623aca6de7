"""Models of torchvision and timm in rounds, without mmengine: what an exchange makes of them, by parameter."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.regnet import BlockParams, RegNet
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from resist_mm.models.partition import PartitionedStage, partition
from resist_mm.rounds import Engine, ResIST
from tests.workers import run_workers

CLASSES = 3


def _mbconv(*setting: int) -> MBConvConfig:
    return MBConvConfig(*setting, width_mult=1.0, depth_mult=1.0)


# the chain to partition, its number of partitioned blocks, and how to make the model
MODELS = {
    'ResNet': ('layer3', 3, partial(ResNet, BasicBlock, [1, 1, 4, 1], num_classes=CLASSES, width_per_group=64)),
    'ConvNeXt': (
        'features.3[:]',
        4,
        partial(ConvNeXt, [CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 4)], num_classes=CLASSES),
    ),
    'ViT': (
        'encoder.layers[:]',
        4,
        partial(VisionTransformer, 32, 8, 4, 2, 8, 16, num_classes=CLASSES),
    ),
    'Swin': (
        'features.3[:]',
        4,
        partial(SwinTransformer, [2, 2], 8, [1, 4], [2, 4], [2, 2], num_classes=CLASSES),
    ),
    'EfficientNet': (
        'features.2[1:]',
        3,
        partial(
            EfficientNet, [_mbconv(2, 3, 1, 8, 8, 1), _mbconv(2, 3, 2, 8, 16, 4)], dropout=0.0, num_classes=CLASSES
        ),
    ),
    'RegNet': (
        'trunk_output.block2',
        3,
        partial(
            RegNet, BlockParams([1, 4], [8, 16], [8, 8], [1.0, 1.0], [2, 2]), num_classes=CLASSES, stem_width=8
        ),
    ),
}


def _timm_models() -> dict:
    """Without adapters are EfficientNet and RegNet: each of their blocks is a residual branch as a whole."""
    from timm import models
    from timm.models.resnet import BasicBlock

    return {
        'ResNet': (
            'layer3',
            3,
            partial(models.ResNet, BasicBlock, [1, 1, 4, 1], CLASSES, channels=(8, 8, 16, 16)),
        ),
        'ConvNeXt': (
            'stages.1.blocks[:]',
            4,
            partial(models.ConvNeXt, num_classes=CLASSES, depths=(1, 4, 1, 1), dims=(8, 16, 16, 16)),
        ),
        'ViT': (
            'blocks[:]',
            4,
            partial(models.VisionTransformer, 32, 8, num_classes=CLASSES, embed_dim=16, depth=4, num_heads=2),
        ),
        'Swin': (
            'layers.1.blocks[:]',
            4,
            partial(models.SwinTransformer, 32, 2, 3, CLASSES, 'avg', 8, (2, 4), (2, 2), window_size=4),
        ),
        'EfficientNet': (
            'blocks.4[1:]',
            2,
            partial(models.efficientnet_b0, num_classes=CLASSES, drop_rate=0.0),
        ),
        'RegNet': ('s4', 6, partial(models.regnetx_002, num_classes=CLASSES)),
    }


def _expected(values: dict[str, Tensor], old, new, names_of_blocks: list[set[str]]) -> dict[str, Tensor]:
    """By the definition: the mean of all holders; what this worker will hold, no more."""
    of_workers: list = [None] * dist.get_world_size()
    dist.all_gather_object(of_workers, values)
    block_of = {name: block for block, names in enumerate(names_of_blocks) for name in names}
    expected = {}
    for name in values:
        block = block_of.get(name)
        if block is not None and dist.get_rank() not in new.holders(block):
            expected[name] = torch.empty(0)
            continue
        holders = range(dist.get_world_size()) if block is None else old.holders(block)
        expected[name] = torch.stack([of_workers[w][name] for w in holders]).mean(0)
    return expected


def _loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    torch.manual_seed(1)  # of stochastic depth
    return cross_entropy(model(images), labels)


def _without_dropped_blocks(plain: nn.Module, stage: PartitionedStage, path: str) -> nn.Module:
    """A copy of a model that was never partitioned, from which the blocks that a stage has dropped are deleted."""
    shallow = copy.deepcopy(plain).train()
    chain = shallow.get_submodule(path.partition('[')[0])
    names = {block: name for name, block in stage.container.named_children()}
    for number in set(range(stage.num_partitioned)) - stage.held:
        delattr(chain, names[stage.partitioned_blocks[number]])
    return shallow


def _two_rounds(path: str, num_blocks: int, make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    model = make()
    generator = torch.Generator().manual_seed(dist.get_rank())
    images, labels = torch.randn(4, 3, 32, 32, generator=generator), torch.arange(4) % CLASSES
    original = model.eval()(images)
    plain = copy.deepcopy(model)
    [stage] = partition(model, path)
    assert stage.scale == 1 and torch.equal(model(images), original)
    model.train()
    of_blocks = [
        {name for name, p in model.named_parameters() if any(p is q for q in stage.block_parameters(number))}
        for number in range(stage.num_partitioned)
    ]
    assert stage.num_partitioned == num_blocks
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    engine = Engine(model, optimizer, ResIST(min_blocks=1))
    engine.begin_round()
    assert 0 < len(stage.held) < num_blocks
    shallow = _without_dropped_blocks(plain, stage, path)
    for round_index in range(2):
        old = engine.assignment
        optimizer.zero_grad()
        loss = _loss(model, images, labels)
        if round_index == 0:
            torch.testing.assert_close(loss, _loss(shallow, images, labels), rtol=1e-5, atol=0)
        loss.backward()
        optimizer.step()
        values = {name: p.detach().clone() for name, p in model.named_parameters()}
        expected = _expected(values, old, engine.protocol.assign(engine.round + 1), of_blocks)
        engine.exchange()
        for key, p in model.named_parameters():
            assert p.shape == expected[key].shape, key
            torch.testing.assert_close(p.detach(), expected[key], rtol=0, atol=1e-7)
            assert p.untyped_storage().nbytes() > 0 or p.numel() == 0
    engine.make_whole()
    assert stage.is_whole and abs(stage.scale.item() - 0.5) < 1e-6
    of_workers: list = [None, None]
    dist.all_gather_object(of_workers, {name: p.detach().clone() for name, p in model.named_parameters()})
    assert all(torch.equal(of_workers[0][key], of_workers[1][key]) for key in of_workers[0])


def _all_models(package: str) -> list[str]:
    models = MODELS if package == 'torchvision' else _timm_models()
    for arguments in models.values():
        _two_rounds(*arguments)
    return list(models)


@pytest.mark.parametrize('package', ['torchvision', 'timm'])
def test_the_exchange_of_any_model_is_that_of_the_definition(package):
    pytest.importorskip(package)
    of_workers = run_workers(_all_models, 2, package)
    assert of_workers == [list(MODELS)] * 2
