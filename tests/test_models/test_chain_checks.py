"""What cannot be partitioned is refused by name, before anything is changed; hooks follow the ends of branches."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from resist_mm.models.adapters import BlockAdapter, register_adapter
from resist_mm.models.partition import PartitionedStage, partition, partitioned_stages


def resnet(*layers: int) -> ResNet:
    torch.manual_seed(0)
    return ResNet(BasicBlock, list(layers or (1, 1, 4, 1)), num_classes=4).eval()


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        ('layer2', 'layer2 has only one block, which all workers share, so none is left to deal out'),
        ('layer3[9:]', 'layer3[9:] has no block: layer3 has 4, and they are numbered from 0'),
        ('layer3[3:2]', 'layer3[3:2] has no block: layer3 has 4'),
        ('layer3[:0]', 'layer3[0:0] has no block: layer3 has 4'),
        ('conv1', 'conv1 (Conv2d) has no blocks, since it has no submodules'),
        ('conv1[:]', 'conv1 (Conv2d) has no blocks, since it has no submodules'),
        (['layer3', 'layer1'], 'layer1 has only one block'),
        (['layer3[:2]', 'layer3[2:]'], 'layer3 is partitioned already'),
        (['layer3', 'twin[:]'], 'twin[0] (BasicBlock) cannot be partitioned: it is part of another chain already'),
        ('', 'or "[1:]" if the model itself is the chain, got \'\''),
        ('layer3[-:]', 'stages must be paths such as "backbone.layer3" or "backbone.layer3[1:]"'),
    ],
)
def test_a_refused_chain_leaves_the_whole_model_as_it_was(stages, message):
    model = resnet()
    model.twin = nn.Sequential(model.layer3[3])
    names = set(model.state_dict())
    with pytest.raises(ValueError, match=re.escape(message)):
        partition(model, stages)
    assert partitioned_stages(model) == {} and set(model.state_dict()) == names
    assert not any(module._forward_hooks or 'forward' in vars(module) for module in model.modules())
    [stage] = partition(model, 'layer3')
    assert stage.num_partitioned == 3


def test_a_forward_of_one_object_is_not_discarded_silently():
    model = resnet()
    model.layer3[2].forward = model.layer3[2].forward  # as wrappers do that set it on the object
    with pytest.raises(
        ValueError, match=r'layer3\[2\] \(BasicBlock\) cannot be partitioned: the `forward` of this'
    ):
        partition(model, 'layer3')
    del model.layer3[2].forward
    partition(model, 'layer3')


class Endless(nn.Module):
    """Its adapter, below, looks for a module that it does not have."""


@register_adapter(Endless)
class EndlessAdapter(BlockAdapter):
    def residual_ends(self, block: nn.Module) -> list[nn.Module]:
        return [block.last_norm]


def test_a_block_that_its_adapter_does_not_fit_is_named_and_nothing_is_changed():
    container = nn.Sequential(BasicBlock(4, 4), BasicBlock(4, 4), Endless())
    with pytest.raises(ValueError, match=r'the stage\[2\] \(Endless\) .*EndlessAdapter .*last_norm'):
        PartitionedStage(container)
    assert not hasattr(container, 'scale') and not container[1].bn2._forward_hooks


def halved(block: nn.Module) -> None:
    block.conv1.half()


def frozen(block: nn.Module) -> None:
    block.requires_grad_(False)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (halved, 'cannot be handed from worker to worker: .*float16.*float32'),
        (frozen, r'has no trainable parameters: do not freeze .*\(frozen_stages\), .*blocks without parameters'),
    ],
)
def test_a_block_that_cannot_be_one_tensor_is_named(change: Callable, reason: str):
    model = resnet()
    [stage] = partition(model, 'layer3')
    change(model.layer3[2])
    with pytest.raises(ValueError, match=rf'layer3\[2\] \(BasicBlock\) {reason}'):
        stage.flat_block(1)


@torch.no_grad()
def test_a_model_may_itself_be_the_chain():
    torch.manual_seed(0)
    model = nn.Sequential(*(BasicBlock(8, 8) for _ in range(3))).eval()
    image = torch.rand(1, 8, 4, 4)
    plain, shallow = model(image), model[2](model[0](image))
    [stage] = partition(model, '[1:]')
    assert partitioned_stages(model) == {'': stage}
    assert [gate.name for gate in stage.gates] == ['the model[1]', 'the model[2]']
    assert torch.equal(model(image), plain) and 'scale' in model.state_dict()
    stage.hold([1])
    assert torch.equal(model(image), shallow)


@torch.no_grad()
def test_an_end_that_was_replaced_and_put_back_is_scaled_once():
    model = resnet()
    [stage] = partition(model, 'layer3')
    stage.scale.fill_(0.5)
    image, block = torch.rand(1, 3, 32, 32), model.layer3[1]
    before, norm, other = model(image), block.bn2, nn.Identity()
    block.bn2 = other
    model(image)
    assert len(norm._forward_hooks) == 0 and len(other._forward_hooks) == 1
    block.bn2 = norm
    assert torch.equal(model(image), before)
    assert len(norm._forward_hooks) == 1 and len(other._forward_hooks) == 0
