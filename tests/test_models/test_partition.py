"""PartitionedStage: whole and scaled, or a sub-ResNet with blocks dropped; by numbers worked out by hand."""

import io
from copy import deepcopy

import pytest
import torch
from mmcv.cnn import build_conv_layer
from mmdet.models.backbones.resnet import BasicBlock, Bottleneck
from mmengine.registry import MODELS
from torch import nn

from resist_mm.models.adapters import BlockAdapter, register_adapter
from resist_mm.models.backbones import PreActBasicBlock, PreActBottleneck
from resist_mm.models.partition import PartitionedStage, partitioned_stages


class Times(nn.Module):
    """Multiplies by a weight."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([float(weight)]))
        self.register_buffer('seen', torch.zeros(1))

    def forward(self, x):
        return x * self.weight


class TinyBlock(nn.Module):
    """A residual block on numbers."""

    def __init__(self, weight, projection=None):
        super().__init__()
        self.branch = Times(weight)
        self.projection = None if projection is None else Times(projection)

    def shortcut(self, x):
        return x if self.projection is None else self.projection(x)

    def forward(self, x):
        return self.shortcut(x) + self.branch(x)


@register_adapter(TinyBlock)
class TinyAdapter(BlockAdapter):
    """Of TinyBlock."""

    def residual_ends(self, block):
        return [block.branch]

    def shared(self, block):
        return [] if block.projection is None else [block.projection]

    def skip(self, block, *args, **kwargs):
        return block.shortcut(*args)


ONE = torch.ones(1)


def tiny_stage(partition_first=False, projection=None):
    """Maps 1 to (1 + 1) (1 + 2) (1 + 3) (1 + 5), without a projection."""
    weights = (1, 2, 3, 5)
    blocks = [TinyBlock(w, projection if i == 0 else None) for i, w in enumerate(weights)]
    return PartitionedStage(nn.Sequential(*blocks), 0 if partition_first else 1)


def test_a_new_stage_is_a_plain_one():
    stage = tiny_stage()
    assert stage.is_whole
    assert stage.scale == 1
    assert stage.container(ONE).item() == 144
    assert (stage.num_partitioned, stage.held) == (3, {0, 1, 2})
    assert [block.branch.weight.item() for block in stage.partitioned_blocks] == [2, 3, 5]


def test_in_the_whole_model_the_branches_of_partitioned_blocks_are_scaled():
    stage = tiny_stage()
    stage.scale.fill_(0.5)
    assert stage.container(ONE).item() == (1 + 1) * (1 + 2 / 2) * (1 + 3 / 2) * (1 + 5 / 2)


@pytest.mark.parametrize(
    ('held', 'expected'),
    [([0, 2], 2 * 3 * 6), ([1], 2 * 4), ([], 2), ([0, 1, 2], 144)],
)
def test_in_a_sub_resnet_dropped_blocks_are_the_identity_and_the_factor_is_1(held, expected):
    stage = tiny_stage()
    stage.scale.fill_(0.5)
    stage.hold(held)
    assert not stage.is_whole
    assert stage.held == set(held)
    assert stage.container(ONE).item() == expected


def test_dropped_blocks_have_no_storage_and_no_gradient_and_get_none():
    stage = tiny_stage()
    stage.container(ONE).backward()
    objects = list(stage.container.parameters())
    stage.hold([1])
    stage.container.zero_grad()
    stage.container(ONE).backward()

    of_blocks = [block.branch.weight for block in stage.container]
    assert [p is q for p, q in zip(of_blocks, objects, strict=True)] == [True] * 4
    assert [p.untyped_storage().nbytes() for p in of_blocks] == [4, 0, 4, 0]
    assert [p.grad is None for p in of_blocks] == [False, True, False, True]
    assert [p.grad.item() for p in of_blocks[::2]] == [4, 2]  # of (1 + a) (1 + b)
    assert all(block.branch.seen.numel() == 1 for block in stage.container), 'buffers stay'


def test_blocks_come_back_one_by_one_and_are_scaled_only_when_the_stage_is_whole():
    stage = tiny_stage()
    stage.scale.fill_(0.5)
    stage.hold([1])
    stage.hold([])
    assert stage.container(ONE).item() == 2
    stage.regain(2).fill_(7)
    assert (stage.held, stage.container(ONE).item()) == ({2}, 2 * 8)
    stage.regain(0).fill_(2)
    with pytest.raises(RuntimeError, match=r'blocks \[1\] are dropped: a whole stage needs them all'):
        stage.make_whole()
    stage.regain(1).fill_(3)
    assert (stage.is_whole, stage.container(ONE).item()) == (False, 2 * 3 * 4 * 8)
    stage.make_whole()
    assert (stage.is_whole, stage.container(ONE).item()) == (True, 2 * 2 * 2.5 * 4.5)
    stage.hold([0])
    assert stage.container(ONE).item() == 2 * 3


def test_only_dropped_blocks_can_be_regained_and_only_held_ones_be_held():
    stage = tiny_stage()
    with pytest.raises(RuntimeError, match='still have their storage'):
        stage.regain(0)
    stage.hold([0, 1])
    with pytest.raises(RuntimeError, match='still have their storage'):
        stage.regain(1)
    with pytest.raises(ValueError, match=r'blocks \[2\] were dropped: regain them first'):
        stage.hold([0, 2])
    assert stage.held == {0, 1}
    assert stage.container(ONE).item() == 2 * 3 * 4


@pytest.mark.parametrize(
    ('held', 'scale', 'expected'), [(None, 1, 11), (None, 0.5, 10.5), ([], 0.5, 10), ([0], 0.5, 11)]
)
def test_of_a_first_block_with_a_projection_the_branch_alone_is_partitioned(held, scale, expected):
    stage = tiny_stage(partition_first=True, projection=10)
    stage.scale.fill_(scale)
    stage.hold(range(4) if held is None else held)
    for number in set(range(1, 4)) & stage.held:
        stage.flat_block(number).flat.zero_()
    if held is None:
        stage.make_whole()

    assert stage.container(ONE).item() == expected
    first = stage.container[0]
    assert stage.num_partitioned == 4
    assert stage.block_parameters(0) == [first.branch.weight]
    assert stage.block_buffers(0)[0] is first.branch.seen
    assert len(stage.block_buffers(0)) == 1
    assert first.projection.weight.untyped_storage().nbytes() == 4


@pytest.mark.parametrize(
    ('num_blocks', 'partition_first', 'message'),
    [(1, False, 'has only one block'), (0, False, 'has no blocks'), (0, True, 'has no blocks')],
)
def test_a_stage_without_a_block_to_partition_is_an_error(num_blocks, partition_first, message):
    with pytest.raises(ValueError, match=f'the stage.* {message}'):
        PartitionedStage(nn.Sequential(*(TinyBlock(1) for _ in range(num_blocks))), 0 if partition_first else 1)


def test_a_frozen_block_cannot_be_partitioned():
    stage = tiny_stage()
    stage.container.requires_grad_(False)
    with pytest.raises(
        ValueError, match=r'the stage\[2\] \(TinyBlock\) has no trainable parameters: .*frozen_stages'
    ):
        stage.hold([0, 2])


def test_frozen_parameters_of_a_dropped_block_stay():
    block = PreActBasicBlock(4, 4)
    stage = PartitionedStage(nn.Sequential(PreActBasicBlock(4, 4), block))
    block.norm1.requires_grad_(False)
    stage.hold([])
    assert block.norm1.weight.shape == (4,)
    assert block.norm2.weight.shape == (0,)


def test_names_are_those_of_a_plain_stage_and_scale():
    stage, plain = tiny_stage().container, nn.Sequential(*tiny_stage().container.children())
    assert list(dict(stage.named_parameters())) == list(dict(plain.named_parameters()))
    assert set(stage.state_dict()) == {*plain.state_dict(), 'scale'}


def test_the_scale_is_saved_and_plain_weights_mean_1():
    stage, model = tiny_stage().container, nn.ModuleDict(dict(stage=tiny_stage().container, head=Times(3)))
    stage.scale.fill_(0.25)
    model['stage'].load_state_dict(stage.state_dict())
    assert model['stage'].scale == 0.25

    head_alone = {f'head.{name}': value for name, value in model['head'].state_dict().items()}
    model.load_state_dict(head_alone, strict=False)
    assert model['stage'].scale == 0.25, 'weights of another part say nothing about it'

    plain = {name: value for name, value in model.state_dict().items() if 'scale' not in name}
    names = set(plain)
    model.load_state_dict(plain)
    assert model['stage'].scale == 1
    assert set(plain) == names

    missing = model.load_state_dict(head_alone, strict=False).missing_keys
    assert 'stage.scale' in missing


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('duplicate', [deepcopy, saved_and_loaded])
@pytest.mark.parametrize('flattened', [False, True])
def test_a_copy_lives_by_itself(duplicate, flattened):
    stage = tiny_stage()
    stage.scale.fill_(0.5)
    if flattened:
        for number in range(3):
            stage.flat_block(number)
    other = duplicate(stage.container).partitioned_stage
    assert other.container(ONE).item() == stage.container(ONE).item() == 35

    other.scale.fill_(1)
    assert (stage.container(ONE).item(), other.container(ONE).item()) == (35, 144)
    stage.hold([0])
    assert (stage.container(ONE).item(), other.container(ONE).item()) == (6, 144)
    other.hold([2])
    assert (stage.container(ONE).item(), other.container(ONE).item()) == (6, 12)
    copy_of_part = duplicate(stage.container).partitioned_stage
    assert copy_of_part.held == {0}
    copy_of_part.regain(1).fill_(4)
    assert (stage.container(ONE).item(), copy_of_part.container(ONE).item()) == (6, 30)


def test_partitioned_stages_of_a_model_by_name_in_its_order():
    model = nn.ModuleDict(dict(b=tiny_stage().container, a=nn.Sequential(nn.ReLU(), tiny_stage().container)))
    assert list(partitioned_stages(model)) == ['b', 'a.1']
    assert partitioned_stages(model)['a.1'].container is model['a'][1]
    assert partitioned_stages(nn.ReLU()) == {}


@MODELS.register_module(force=True)
class OneMinus(nn.Module):
    """A plugin after which it shows whether the scale came before it or after."""

    _abbr_ = 'one_minus'

    def __init__(self, in_channels):
        super().__init__()

    def forward(self, x):
        return 1 - x


PLAIN_BN = dict(type='BN', eps=1e-12)  # in eval mode the identity


def image(*channels):
    return torch.tensor(channels, dtype=torch.float32).view(1, -1, 1, 1)


def set_convs(block, *weights):
    """Give convolution i, at its centre, the matrix ``weights[i - 1]``."""
    for i, weight in enumerate(weights, start=1):
        conv = getattr(block, f'conv{i}').weight.data
        conv.zero_()
        conv[:, :, conv.shape[2] // 2, conv.shape[3] // 2] = torch.tensor(weight, dtype=torch.float32)
    return block.eval()


def outputs(block, x, scale=0.5):
    """Of the block in the whole model, in a sub-ResNet that holds it, in one that does not."""
    stage = PartitionedStage(nn.Sequential(block), first=0)
    stage.scale.fill_(scale)
    found = [stage.container(x.clone())]
    for held in ([0], []):
        stage.hold(held)
        found.append(stage.container(x.clone()))
    assert {out.shape for out in found} == {found[0].shape}
    return [out.flatten().tolist() for out in found]


def basic_block(**kwargs):
    """A residual branch that maps 3 to -6, and its last norm makes that -4."""
    block = set_convs(BasicBlock(1, 1, norm_cfg=PLAIN_BN, **kwargs), [[2]], [[-1]])
    nn.init.constant_(block.norm2.bias, 2)
    return block


# relu(3 - 4 * scale) where the block is there
@pytest.mark.parametrize(('scale', 'expected'), [(1, [0, 0, 3]), (0.5, [1, 0, 3]), (0.25, [2, 0, 3])])
def test_mmdet_s_basic_block_is_scaled_before_addition_and_relu(scale, expected):
    assert outputs(basic_block(), image(3), scale) == [[value] for value in expected]


@pytest.mark.parametrize(('projection', 'expected'), [(2, [4, 2, 6]), (-2, [0, 0, 0]), (4, [10, 8, 12])])
def test_a_dropped_block_of_mmdet_with_a_projection_is_the_projection_and_relu(projection, expected):
    downsample = nn.Sequential(build_conv_layer(None, 1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=1e-12))
    nn.init.constant_(downsample[0].weight, projection)
    block = basic_block(downsample=downsample.eval())
    assert outputs(block, image(3)) == [[value] for value in expected]


def bottleneck(**kwargs):
    """A residual branch that maps (1, 2, 3, 4) to (-10, 10, 0, 20), and its last norm to (-8, 10, -2, 20)."""
    block = Bottleneck(4, 1, norm_cfg=PLAIN_BN, **kwargs)
    block.norm3.bias.data = torch.tensor([2.0, 0.0, -2.0, 0.0])
    return set_convs(block, [[1, 1, 1, 1]], [[1]], [[-1], [1], [0], [2]])


def test_mmdet_s_bottleneck_is_scaled_before_addition_and_relu():
    assert outputs(bottleneck(), image(1, 2, 3, 4)) == [
        [0, 2 + 5, 3 - 1, 4 + 10],
        [0, 2 + 10, 3 - 2, 4 + 20],
        [1, 2, 3, 4],
    ]


def test_mmdet_s_bottleneck_is_scaled_behind_the_plugins_that_follow_norm3():
    plugin = dict(cfg=dict(type='OneMinus', postfix=1), position='after_conv3')
    second = dict(cfg=dict(type='OneMinus', postfix=2), position='after_conv3')
    x = image(1, 2, 3, 4)
    # 1 - (-8, 10, -2, 20) = (9, -9, 3, -19)
    assert outputs(bottleneck(plugins=[plugin]), x) == [
        [1 + 4.5, 0, 3 + 1.5, 0],
        [1 + 9, 0, 3 + 3, 0],
        [1, 2, 3, 4],
    ]
    # behind the second one the branch is what it was, and only half of it must arrive
    assert outputs(bottleneck(plugins=[plugin, second]), x) == outputs(bottleneck(), x)
    # one that comes earlier is not the end: norm3 is; it makes -9 of 10, the rest (11, -9, -2, -18)
    early = dict(cfg=dict(type='OneMinus'), position='after_conv2')
    assert outputs(bottleneck(plugins=[early]), x)[0] == [1 + 5.5, 0, 3 - 1, 0]


# the branch makes -8 of 3, and -2 of -3
@pytest.mark.parametrize(('x', 'expected'), [(3, [3 - 4, 3 - 8, 3]), (-3, [-3 - 1, -3 - 2, -3])])
def test_a_preactivation_block_is_scaled_before_addition(x, expected):
    block = set_convs(PreActBasicBlock(1, 1, norm_cfg=PLAIN_BN), [[2]], [[-1]])
    nn.init.constant_(block.norm2.bias, 2)
    assert outputs(block, image(x)) == [[value] for value in expected]


def test_a_preactivation_bottleneck_is_scaled_before_addition():
    block = set_convs(PreActBottleneck(4, 1, norm_cfg=PLAIN_BN), [[1, 1, 1, 1]], [[1]], [[-1], [1], [0], [2]])
    nn.init.constant_(block.norm3.bias, 2)
    # 6, and 8 behind the third norm
    assert outputs(block, image(1, 2, 3, -4)) == [
        [1 - 4, 2 + 4, 3, -4 + 8],
        [1 - 8, 2 + 8, 3, -4 + 16],
        [1, 2, 3, -4],
    ]


def test_a_dropped_preactivation_block_keeps_projection_and_first_norm():
    block = set_convs(PreActBasicBlock(1, 1, stride=2, norm_cfg=PLAIN_BN), [[2]], [[-1]])
    nn.init.constant_(block.norm1.weight, 2)
    nn.init.constant_(block.downsample.weight, 4)
    x = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).view(1, 1, 2, 2)
    # the norm makes 6 of the 3, the projection 24, the branch -12
    assert outputs(block, x) == [[18], [12], [24]]


def test_what_a_preactivation_block_with_a_projection_gives_up():
    block = PreActBasicBlock(1, 1, stride=2)
    stage = PartitionedStage(nn.Sequential(block), first=0)
    params, buffers = stage.block_parameters(0), stage.block_buffers(0)
    assert {name for name, p in block.named_parameters() if any(p is q for q in params)} == {
        'conv1.weight',
        'norm2.weight',
        'norm2.bias',
        'conv2.weight',
    }
    assert {name for name, b in block.named_buffers() if any(b is c for c in buffers)} == {
        'norm2.running_mean',
        'norm2.running_var',
        'norm2.num_batches_tracked',
    }
