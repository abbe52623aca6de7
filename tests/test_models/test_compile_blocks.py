"""Residual blocks compiled one by one: how many graphs, and that the results are those of the plain blocks."""

import copy
import random

import pytest
import torch
from mmdet.models.backbones.resnet import BasicBlock
from torch import nn
from torch._dynamo.utils import counters

from resist_mm.models import PartitionableResNet
from resist_mm.models.backbones import PreActBasicBlock, PreActResNet
from resist_mm.models.compile_blocks import compile_blocks
from resist_mm.models.partition import PartitionedStage

EAGER = dict(backend='eager')
BLOCKS = {'preact': PreActBasicBlock, 'mmdet': BasicBlock}


@pytest.fixture(autouse=True)
def fresh_graphs():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def graphs():
    assert not counters['graph_break'], counters['graph_break']
    return counters['stats']['unique_graphs']


def stage_and_copy(kind='preact', scale=0.25):
    """Blocks of one shape, so that the first could lend its graphs to the others."""
    torch.manual_seed(0)
    stages = [nn.Sequential(*(BLOCKS[kind](4, 4) for _ in range(6))) for _ in range(2)]
    for stage in stages:
        PartitionedStage(stage)
    stages[0].load_state_dict(stages[1].state_dict())
    for stage in stages:
        stage.scale.fill_(scale)
    return stages


def check_same(compiled, plain, batch=2):
    """Outputs, gradients and statistics are equal bit by bit."""
    x = torch.randn(batch, 4, 6, 6)
    outs = [stage(x.clone()) for stage in (compiled, plain)]
    assert torch.equal(*outs)
    if outs[0].requires_grad:
        for out, stage in zip(outs, (compiled, plain), strict=True):
            stage.zero_grad()
            out.square().mean().backward()
        for (name, p), q in zip(compiled.named_parameters(), plain.parameters(), strict=True):
            assert (p.grad is None) == (q.grad is None), name
            assert p.grad is None or torch.equal(p.grad, q.grad), name
            for param in (p, q):
                param.data -= 0 if param.grad is None else param.grad / 100
    for name, value in compiled.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


def drop_and_regain(compiled, plain, held):
    """A round with the blocks ``held``, then the whole stage with new values in new storage."""
    for stage in (compiled, plain):
        stage.partitioned_stage.hold(held)
    check_same(compiled, plain)
    for number in set(range(5)) - set(held):
        values = torch.randn(compiled.partitioned_stage.flat_block(number).numel) / 10
        for stage in (compiled, plain):
            stage.partitioned_stage.regain(number).copy_(values)
    for stage in (compiled, plain):
        stage.partitioned_stage.make_whole()


@pytest.mark.parametrize('kind', BLOCKS)
def test_twelve_rounds_need_one_graph_for_the_first_block_and_one_or_two_for_all_others(kind):
    compiled, plain = stage_and_copy(kind)
    assert compile_blocks(compiled, EAGER) == 6
    draw = random.Random(0)
    found = []
    for _ in range(12):
        drop_and_regain(compiled, plain, sorted(draw.sample(range(5), draw.randint(1, 5))))
        found.append(graphs())
    assert found == [2] * 12
    for scale in (0.25, 0.5):  # the whole stage is trained
        for stage in (compiled, plain):
            stage.scale.fill_(scale)
        check_same(compiled, plain)
        drop_and_regain(compiled, plain, [1, 3])
    assert graphs() == 3


def test_evaluation_and_recalibration_need_no_graph_and_see_the_scale():
    compiled, plain = stage_and_copy()
    compile_blocks(compiled, EAGER)
    for stage in (compiled, plain):
        stage.eval()
    with torch.no_grad():
        check_same(compiled, plain)
    for stage in (compiled, plain):
        stage.train()
        for module in stage.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
    with torch.inference_mode():
        for batch in (2, 3, 4):
            check_same(compiled, plain, batch)
    assert graphs() == 0


def test_another_size_of_the_batch_adds_one_graph_to_each():
    compiled, plain = stage_and_copy()
    compile_blocks(compiled, EAGER)
    found = []
    for batch in (2, 3, 5, 4, 2):
        check_same(compiled, plain, batch)
        found.append(graphs())
    assert found == [2, 4, 4, 4, 4]


def test_widths_of_stages_are_not_taken_for_a_dynamic_size():
    model = PreActResNet(stage_blocks=(2, 2, 4, 2), block='basic', stem='cifar', base_channels=2, out_indices=(3,))
    assert compile_blocks(model, EAGER) == 10
    for _ in range(3):
        model(torch.rand(2, 3, 16, 16))[0].sum().backward()
    assert graphs() == 8, 'of each stage the first block and the others'


def test_blocks_of_mmdet_s_resnet_are_compiled():
    model = nn.ModuleDict(dict(backbone=PartitionableResNet(depth=18, base_channels=4, norm_eval=False)))
    assert compile_blocks(model, EAGER) == 8
    model['backbone'](torch.rand(2, 3, 64, 64))
    assert graphs() == 8


def test_names_and_copies_are_as_without():
    compiled, plain = stage_and_copy()
    compile_blocks(compiled, EAGER)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in compiled.named_modules()] == [name for name, _ in plain.named_modules()]
    check_same(copy.deepcopy(compiled), plain)
    assert graphs() == 0


def test_a_second_call_keeps_the_graphs():
    compiled, plain = stage_and_copy()
    compile_blocks(compiled, EAGER)
    check_same(compiled, plain)
    assert compile_blocks(compiled, EAGER) == 6
    check_same(compiled, plain)
    assert graphs() == 2


class Model(nn.Module):
    """Has what mmengine compiles."""

    def train_step(self):
        return 'plain'


def test_the_whole_train_step_is_set_back_if_compile_is_set():
    model = Model()
    for compile_cfg, expected in ((None, 'compiled'), (False, 'compiled'), (True, 'plain'), ({}, 'plain')):
        model.train_step = lambda: 'compiled'
        assert compile_blocks(model, compile_cfg) == 0
        assert model.train_step() == expected
    assert compile_blocks(stage_and_copy()[0], False) == 0
