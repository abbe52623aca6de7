"""PreActResNet and PartitionableResNet: plain networks, unless blocks are dropped or the scale is set."""

import io
from copy import deepcopy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
import torchvision
from mmdet.models.backbones import ResNet
from mmengine.registry import MODELS, DefaultScope
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from resist_mm.models import PartitionableResNet, PreActResNet, partitioned_stages
from resist_mm.models.backbones import CIFARResNet

SMALL = dict(base_channels=8, stage_blocks=(1, 2, 4, 1))
BACKBONES = {
    'preact_basic': lambda **kw: PreActResNet(**{**SMALL, 'block': 'basic', 'stem': 'cifar', **kw}),
    'preact_bottleneck': lambda **kw: PreActResNet(**{**SMALL, 'block': 'bottleneck', **kw}),
    'mmdet_basic': lambda **kw: PartitionableResNet(34, base_channels=8, **{'norm_eval': False, **kw}),
    'mmdet_bottleneck': lambda **kw: PartitionableResNet(50, base_channels=4, **{'norm_eval': False, **kw}),
}


@pytest.fixture(params=BACKBONES)
def make(request):
    """A function that makes a small backbone."""
    return BACKBONES[request.param]


def in_eval(model):
    model.eval()  # mmdet's ResNet.train() returns nothing
    return model


def randomised(model, seed=0):
    """The model with random weights and running statistics, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if name.endswith('running_var') or (name.endswith('weight') and tensor.dim() == 1):
            tensor.uniform_(0.5, 1.5, generator=generator)
        elif tensor.dim() > 1:
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5, generator=generator)
        elif tensor.dim() == 1:
            tensor.uniform_(-0.5, 0.5, generator=generator)
    return in_eval(model)


def images(seed=1, size=32, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def set_scale(model, scale):
    for stage in partitioned_stages(model).values():
        stage.scale.fill_(scale)
    return model


def assert_same(outs, expected):
    assert len(outs) == len(expected)
    for out, other in zip(outs, expected, strict=True):
        assert out.isfinite().all()
        assert out.std() > 0
        torch.testing.assert_close(out, other, rtol=1e-4, atol=1e-5)


# --- plain weights


@pytest.mark.parametrize(
    'arguments',
    [
        dict(depth=18),
        dict(depth=50, style='caffe'),
        dict(depth=50, deep_stem=True, avg_down=True),
        dict(depth=50, partition_stages=('layer2', 'layer3'), partition_first=True),
    ],
)
def test_weights_of_mmdet_s_resnet_load_and_give_the_same_outputs(arguments):
    arguments = dict(base_channels=8, **arguments)
    model = PartitionableResNet(**arguments)
    stages = arguments.pop('partition_stages', ['layer3'])
    arguments.pop('partition_first', None)
    plain = randomised(ResNet(**arguments))
    set_scale(model, 0.5)

    model.load_state_dict(plain.state_dict())

    assert set(model.state_dict()) == {*plain.state_dict(), *(f'{stage}.scale' for stage in stages)}
    assert [*dict(model.named_parameters())] == [*dict(plain.named_parameters())]
    assert all(stage.scale == 1 for stage in partitioned_stages(model).values())
    assert_same(in_eval(model)(images()), plain(images()))


@pytest.mark.parametrize('depth', [50, 101])
def test_weights_of_torchvision_load_and_give_the_same_outputs(depth):
    plain = randomised(getattr(torchvision.models, f'resnet{depth}')(weights=None))
    weights = {name: value for name, value in plain.state_dict().items() if not name.startswith('fc.')}
    model = in_eval(PartitionableResNet(depth))

    model.load_state_dict(weights)

    x = plain.maxpool(plain.relu(plain.bn1(plain.conv1(images(batch=1)))))
    expected = []
    for stage in (plain.layer1, plain.layer2, plain.layer3, plain.layer4):
        x = stage(x)
        expected.append(x)
    with torch.no_grad():
        assert_same(model(images(batch=1)), expected)


def test_weights_load_through_init_cfg(tmp_path):
    checkpoint = tmp_path / 'plain.pth'
    plain = randomised(ResNet(18, base_channels=8))
    torch.save(plain.state_dict(), checkpoint)
    model = PartitionableResNet(18, base_channels=8, init_cfg=dict(type='Pretrained', checkpoint=str(checkpoint)))
    model.init_weights()
    assert_same(in_eval(model)(images()), plain(images()))


def test_the_scale_is_part_of_the_weights(make):
    model = set_scale(randomised(make()), 0.25)
    other = in_eval(make())
    other.load_state_dict(model.state_dict())
    assert_same(other(images()), model(images()))
    set_scale(other, 1)
    assert not torch.allclose(other(images())[-1], model(images())[-1], rtol=0.01)


# --- pre-activation networks


def preact_forward(state, x, stem, dropped=()):
    """A pre-activation ResNet, written out; of ``dropped`` blocks (stage, place) the shortcut alone."""

    def norm_relu(name, x):
        mean, var, weight, bias = (
            state[f'{name}.{key}'] for key in ('running_mean', 'running_var', 'weight', 'bias')
        )
        x = (x - mean.view(-1, 1, 1)) / (var.view(-1, 1, 1) + 1e-5).sqrt()
        return (x * weight.view(-1, 1, 1) + bias.view(-1, 1, 1)).clamp(min=0)

    if stem == 'cifar':
        x = F.conv2d(x, state['stem.0.weight'], padding=1)
    else:
        x = norm_relu('stem.1', F.conv2d(x, state['stem.0.weight'], stride=2, padding=3))
        x = F.max_pool2d(x, 3, stride=2, padding=1)
    outs = []
    for i in range(1, 5):
        j = 0
        while f'layer{i}.{j}.conv1.weight' in state:
            block, stride = f'layer{i}.{j}', 2 if i > 1 and j == 0 else 1
            out = norm_relu(f'{block}.norm1', x)
            if f'{block}.downsample.weight' in state:
                x = F.conv2d(out, state[f'{block}.downsample.weight'], stride=stride)
            if (i, j) not in dropped:
                if f'{block}.conv3.weight' in state:
                    out = F.conv2d(out, state[f'{block}.conv1.weight'])
                    out = norm_relu(f'{block}.norm2', out)
                    out = F.conv2d(out, state[f'{block}.conv2.weight'], stride=stride, padding=1)
                    out = norm_relu(f'{block}.norm3', out)
                    out = F.conv2d(out, state[f'{block}.conv3.weight'])
                else:
                    out = F.conv2d(out, state[f'{block}.conv1.weight'], stride=stride, padding=1)
                    out = norm_relu(f'{block}.norm2', out)
                    out = F.conv2d(out, state[f'{block}.conv2.weight'], padding=1)
                partitioned = f'layer{i}.scale' in state and j > 0 and not dropped
                x = x + (state[f'layer{i}.scale'] * out if partitioned else out)
            j += 1
        outs.append(norm_relu(f'final_norm{i}', x) if f'final_norm{i}.weight' in state else x)
    return outs


@pytest.mark.parametrize('block', ['basic', 'bottleneck'])
@pytest.mark.parametrize('stem', ['cifar', 'imagenet'])
@pytest.mark.parametrize('final_norm', [True, False])
def test_outputs_of_a_preactivation_resnet(block, stem, final_norm):
    model = PreActResNet(block=block, stem=stem, final_norm=final_norm, **SMALL)
    state = deepcopy(set_scale(randomised(model), 0.25).double().state_dict())
    assert any(name.startswith('final_norm') for name in state) is final_norm
    assert_same(model(images().double()), preact_forward(state, images().double(), stem))

    model.layer3.partitioned_stage.hold([0, 2])
    assert_same(model(images().double()), preact_forward(state, images().double(), stem, dropped=[(3, 2)]))


def test_several_stages_and_their_first_blocks_can_be_partitioned():
    stages = ('layer2', 'layer3')
    model = PreActResNet(block='basic', stem='cifar', partition_stages=stages, partition_first=True, **SMALL)
    state = deepcopy(randomised(model).double().state_dict())
    assert list(partitioned_stages(model)) == ['layer2', 'layer3']
    assert [stage.num_partitioned for stage in partitioned_stages(model).values()] == [2, 4]
    assert_same(model(images().double()), preact_forward(state, images().double(), 'cifar'))

    model.layer2.partitioned_stage.hold([1])
    model.layer3.partitioned_stage.hold([0, 3])
    dropped = [(2, 0), (3, 1), (3, 2)]
    assert_same(model(images().double()), preact_forward(state, images().double(), 'cifar', dropped))


def test_out_indices_choose_stages():
    model = randomised(PreActResNet(block='basic', stem='cifar', **SMALL))
    some = in_eval(PreActResNet(block='basic', stem='cifar', out_indices=(1, 3), **SMALL))
    some.load_state_dict(model.state_dict(), strict=False)
    assert_same(some(images()), [model(images())[i] for i in (1, 3)])
    assert not hasattr(some, 'final_norm1')
    assert some.feat_dim == some(images())[-1].shape[1]


def test_widths_strides_and_dilations():
    model = PreActResNet(
        block='bottleneck',
        stage_blocks=(1, 1, 2),
        num_stages=3,
        strides=(1, 2, 1),
        dilations=(1, 1, 2),
        out_indices=(0, 1, 2),
        in_channels=1,
        stem_channels=6,
        base_channels=4,
    )
    assert model.stem[0].weight.shape == (6, 1, 7, 7)
    assert [tuple(out.shape[1:]) for out in model(torch.randn(2, 1, 32, 32))] == [
        (16, 8, 8),
        (32, 4, 4),
        (64, 4, 4),
    ]
    assert model.layer3[1].conv2.dilation == (2, 2)
    assert model.feat_dim == 64


@pytest.mark.parametrize(
    ('arguments', 'expected'),
    [
        (dict(depth=101, block='basic'), 41_396_900),
        (dict(block='basic', stage_blocks=(3, 4, 23, 3)), 41_396_900),
        (dict(block='basic', stage_blocks=(3, 4, 36, 3)), 41_396_900 + 13 * 1_180_672),
    ],
)
def test_the_networks_of_the_paper_have_the_parameters_of_the_paper(arguments, expected):
    with torch.device('meta'):
        model = PreActResNet(**arguments, stem='cifar', final_norm=False)
        head = nn.Linear(model.feat_dim, 100)
    assert sum(p.numel() for module in (model, head) for p in module.parameters()) == expected
    for number in range(model.layer3.partitioned_stage.num_partitioned):
        assert sum(p.numel() for p in model.layer3.partitioned_stage.block_parameters(number)) == 1_180_672


@pytest.mark.parametrize(
    ('depth', 'block', 'layout'),
    [
        (18, 'PreActBasicBlock', (2, 2, 2, 2)),
        (34, 'PreActBasicBlock', (3, 4, 6, 3)),
        (50, 'PreActBottleneck', (3, 4, 6, 3)),
        (101, 'PreActBottleneck', (3, 4, 23, 3)),
        (152, 'PreActBottleneck', (3, 8, 36, 3)),
    ],
)
def test_depth_means_the_layouts_of_mmdet(depth, block, layout):
    with torch.device('meta'):
        model = PreActResNet(depth, base_channels=4)
    stages = [getattr(model, name) for name in model.res_layers]
    assert tuple(map(len, stages)) == layout == tuple(ResNet.arch_settings[depth][1])
    assert {type(b).__name__ for stage in stages for b in stage.children()} == {block}


# --- dropped blocks


def resident_bytes(model):
    """Of the distinct storages behind the parameters."""
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() for p in model.parameters()}
    storages.pop(0, None)
    return sum(storages.values())


def test_resident_parameters_are_exactly_those_of_the_sub_resnet(make):
    model = make()
    blocks = model.layer3.partitioned_stage.partitioned_blocks
    one = sum(p.numel() for p in blocks[0].parameters())
    shared = sum(p.numel() for p in model.parameters()) - len(blocks) * one
    model(images())[-1].sum().backward()
    objects = list(model.parameters())

    for held in ([0, 2], [2], []):
        model.layer3.partitioned_stage.hold(held)
        assert resident_bytes(model) == 4 * (shared + len(held) * one)
        for number, block in enumerate(blocks):
            if number not in held:
                assert all(p.untyped_storage().nbytes() == 0 and p.grad is None for p in block.parameters())
    assert all(p is q for p, q in zip(model.parameters(), objects, strict=True))


def test_a_sub_resnet_computes_and_learns_as_the_shallower_network_would():
    """Outputs, gradients and running statistics; whatever the scale of the whole model."""
    model = set_scale(randomised(BACKBONES['preact_basic']()), 0.25)
    shallow = BACKBONES['preact_basic'](stage_blocks=(1, 2, 3, 1))

    def of_shallow(name):
        return name.replace('layer3.3.', 'layer3.2.')

    state = {n: v for n, v in model.state_dict().items() if not n.startswith(('layer3.2', 'layer3.scale'))}
    shallow.load_state_dict({of_shallow(name): value for name, value in state.items()})
    model.layer3.partitioned_stage.hold([0, 2])
    for network in (model.train(), shallow.train()):
        network(images())[-1].square().mean().backward()

    assert_same(model(images()), shallow(images()))
    others = dict(shallow.named_parameters())
    for name, p in model.named_parameters():
        if name.startswith('layer3.2.'):
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, others[of_shallow(name)].grad)
    others = dict(shallow.named_buffers())
    for name, buffer in model.named_buffers():
        if not name.startswith('layer3.2.') and 'scale' not in name:
            torch.testing.assert_close(buffer, others[of_shallow(name)])


@pytest.mark.parametrize('held', [None, [0, 2]])
def test_checkpointing_activations_changes_no_gradient(make, held):
    gradients, num_forwards = [], []
    for with_cp in (False, True):
        num_forwards.append(0)

        def count(*_):
            num_forwards[-1] += 1

        model = set_scale(randomised(make(with_cp=with_cp)), 0.5)
        if held is not None:
            model.layer3.partitioned_stage.hold(held)
        model.layer3[3].conv1.register_forward_hook(count)
        model.train()
        model(images().requires_grad_())[-1].square().mean().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert num_forwards == [1, 2]
    plain, checkpointed = gradients
    assert any(gradient is not None for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(gradient, checkpointed[name])


# --- modes, initialisation


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_frozen_stages_and_norm_eval_are_as_mmdet_s(frozen_stages, norm_eval):
    arguments = dict(base_channels=8, frozen_stages=frozen_stages, norm_eval=norm_eval)
    model, plain = PartitionableResNet(18, **arguments), ResNet(18, **arguments)
    for mode in (True, False, True):
        model.train(mode)
        plain.train(mode)
        assert {n: m.training for n, m in model.named_modules()} == {
            n: m.training for n, m in plain.named_modules()
        }
        assert {n: p.requires_grad for n, p in model.named_parameters()} == {
            n: p.requires_grad for n, p in plain.named_parameters()
        }


@pytest.mark.parametrize('frozen_stages', [-1, 0, 1, 2])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_frozen_stages_and_norm_eval_of_a_preactivation_resnet(frozen_stages, norm_eval):
    model = PreActResNet(block='basic', frozen_stages=frozen_stages, norm_eval=norm_eval, **SMALL)
    frozen = ['stem', 'layer1', 'layer2'][: frozen_stages + 1]
    frozen += [f'final_norm{i}' for i in (1, 2) if i <= frozen_stages]
    for mode in (True, False, True):
        model.train(mode)
        for name, p in model.named_parameters():
            assert p.requires_grad is (name.split('.')[0] not in frozen), name
        for name, module in model.named_modules():
            if name.split('.')[0] in frozen or (norm_eval and isinstance(module, _BatchNorm)):
                assert not module.training, name
            else:
                assert module.training is mode, name


def test_mmdet_s_initialisation_is_not_changed():
    states = []
    for cls in (PartitionableResNet, ResNet):
        torch.manual_seed(3)
        model = cls(18, base_channels=8)
        model.init_weights()
        states.append(model.state_dict())
    assert (states[0]['layer3.1.bn2.weight'] == 0).all(), 'zero_init_residual'
    for name, value in states[1].items():
        assert torch.equal(states[0][name], value), name


def test_initialisation_of_a_preactivation_resnet():
    model = PreActResNet(block='basic', stage_blocks=(1, 1, 3, 1), base_channels=32)
    for p in model.parameters():
        nn.init.constant_(p, 7)
    model.init_weights()
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.weight[:, 0].numel()
            assert module.weight.detach().std() == pytest.approx((2 / fan_out) ** 0.5, rel=0.1), name
        elif isinstance(module, _BatchNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name


def with_init(make, **arguments):
    """A network whose weights were all 7 before it was initialised."""
    model = make(stage_blocks=(1, 1, 3, 1), base_channels=32, **arguments)
    for p in model.parameters():
        nn.init.constant_(p, 7)
    model.init_weights()
    return model


@pytest.mark.parametrize('make', [partial(PreActResNet, block='basic', stem='cifar'), CIFARResNet])
def test_initialisation_as_the_authors_is_pytorch_s_own(make):
    for name, module in with_init(make, init='torch').named_modules():
        if isinstance(module, nn.Conv2d):
            found, own = module.weight.detach().clone(), module.weight.detach()
            module.reset_parameters()
            bound = (1 / own[0].numel()) ** 0.5
            for weight in (found, own):
                assert bound * 0.97 < weight.abs().max() <= bound, name
                assert weight.std() == pytest.approx(bound / 3**0.5, rel=0.05), name
                assert weight.mean() == pytest.approx(0, abs=0.1 * bound), name
        elif isinstance(module, _BatchNorm):
            assert (module.weight == 1).all() and (module.bias == 0).all(), name


@pytest.mark.parametrize('make', [partial(PreActResNet, block='basic', stem='cifar'), CIFARResNet])
def test_initialisation_by_default_is_kaiming(make):
    states = []
    for arguments in ({}, dict(init='kaiming'), dict(init='torch', init_cfg=dict(type='Kaiming', layer='Conv2d'))):
        torch.manual_seed(3)
        weights = with_init(make, **arguments).state_dict()
        states.append({name: value for name, value in weights.items() if value.dim() == 4})
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
        assert torch.equal(value, states[2][name]), 'init_cfg takes the place of init'
    conv = states[0]['layer3.1.conv1.weight']
    assert conv.std() == pytest.approx((2 / conv[:, 0].numel()) ** 0.5, rel=0.02)
    narrow = with_init(make, init='torch').state_dict()['layer3.1.conv1.weight']
    assert conv.std() / narrow.std() == pytest.approx(6**0.5, rel=0.02)
    with pytest.raises(ValueError, match=r"init must be one of \['kaiming', 'torch'\], got 'xavier'"):
        make(stage_blocks=(1, 1, 3, 1), init='xavier')


@pytest.mark.parametrize('name', ['PreActResNet', 'PartitionableResNet'])
def test_builds_from_any_config(name):
    cfg = dict(type=f'resist_mm.{name}', depth=18, base_channels=8)
    with DefaultScope.overwrite_default_scope('mmdet'):
        assert type(MODELS.build(cfg)).__name__ == name


# --- precision, copies


@pytest.mark.parametrize('held', [None, [0, 2]])
def test_under_autocast_the_scale_keeps_bf16(make, held):
    model = set_scale(randomised(make()), 0.25)
    if held is not None:
        model.layer3.partitioned_stage.hold(held)
    dtypes = []

    def note(module, args):
        dtypes.append(args[0].dtype)

    for module in model.layer3.modules():
        if isinstance(module, nn.Conv2d | _BatchNorm):
            module.register_forward_pre_hook(note)
    expected = [out.float() for out in model(images())]
    dtypes.clear()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        outs = model(images())
    assert set(dtypes) == {torch.bfloat16}
    assert all(out.dtype == torch.bfloat16 for out in outs)
    for out, other in zip(outs, expected, strict=True):
        assert (out.float() - other).norm() < 0.05 * other.norm()


def test_a_model_cast_to_bf16_keeps_bf16(make):
    model = set_scale(randomised(make()), 0.25).bfloat16()
    model.layer3.partitioned_stage.flat_block(0)
    assert model.layer3.scale.dtype == torch.bfloat16
    assert all(out.dtype == torch.bfloat16 for out in model(images().bfloat16()))


def saved_and_loaded(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('duplicate', [deepcopy, saved_and_loaded])
@pytest.mark.parametrize('held', [None, [0, 2]])
def test_a_model_can_be_copied_and_saved_whole(make, duplicate, held):
    model = set_scale(randomised(make()), 0.5)
    if held is not None:
        model.layer3.partitioned_stage.hold(held)
    expected = model(images())
    other = duplicate(model)
    assert_same(other(images()), expected)
    if held is None:
        set_scale(other, 1)
        assert not torch.allclose(other(images())[-1], expected[-1], rtol=0.01)
    else:
        assert resident_bytes(other) == resident_bytes(model)
        randomised(other.layer3[1])
        assert not torch.allclose(other(images())[-1], expected[-1], rtol=0.01)
    assert_same(model(images()), expected)


# --- errors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(partition_stages=('layer5',)), r"partition_stages names 'layer5', but .* \['layer1', 'layer2', "),
        (dict(partition_stages='head'), "partition_stages names 'head'"),
        (dict(partition_stages=('layer1',)), "partition_stages names 'layer1': layer1 has only one block"),
        (dict(stem='vgg'), "stem must be 'imagenet' or 'cifar', got 'vgg'"),
        (dict(block='wide'), r"block must be one of \['basic', 'bottleneck'\], got 'wide'"),
        (dict(block=None), 'both block and stage_blocks are needed, got block=None'),
        (dict(stage_blocks=None), 'both block and stage_blocks are needed, .*stage_blocks=None'),
        (dict(depth=200), r'depth=200 is not one of \[18, 34, 50, 101, 152\]'),
        (dict(num_stages=5), 'num_stages must be between 1 and 4, got 5'),
        (dict(num_stages=0), 'num_stages must be between 1 and 4, got 0'),
        (dict(stage_blocks=(1, 1, 2)), 'stage_blocks must have one number for each of 4 stages'),
        (dict(strides=(1, 2)), 'strides must have one number for each of 4 stages'),
        (dict(dilations=(1,)), 'dilations must have one number for each of 4 stages'),
        (dict(out_indices=(0, 4)), r'out_indices must lie between 0 and 3, got \(0, 4\)'),
        (dict(out_indices=(-1,)), r'out_indices must lie between 0 and 3, got \(-1,\)'),
        (dict(out_indices=()), r'out_indices must lie between 0 and 3, got \(\)'),
        (dict(num_stages=3), r'out_indices must lie between 0 and 2, got \(0, 1, 2, 3\)'),
    ],
)
def test_wrong_arguments_of_a_preactivation_resnet_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PreActResNet(**{**SMALL, 'block': 'basic', **arguments})


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(partition_stages=('layer5',)), r"partition_stages names 'layer5', but .*PartitionableResNet"),
        (dict(num_stages=2, strides=(1, 2), dilations=(1, 1), out_indices=(1,)), r"'layer3', but .*'layer2'\]"),
    ],
)
def test_wrong_arguments_of_a_partitionable_resnet_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        PartitionableResNet(18, base_channels=8, **arguments)


def test_one_stage_may_be_given_without_a_list(make):
    assert list(partitioned_stages(make(partition_stages='layer2'))) == ['layer2']


def test_a_frozen_partitioned_stage_is_an_error_that_says_so(make):
    model = make(frozen_stages=3)
    with pytest.raises(ValueError, match=r'no trainable parameters: .*frozen_stages'):
        model.layer3.partitioned_stage.hold([])


def test_the_cifar_resnet_does_not_start_with_empty_residual_branches():
    model = CIFARResNet(stage_blocks=(1, 1, 3, 1), base_channels=4)
    model.init_weights()
    assert not model.norm_eval
    assert all((norm.weight == 1).all() for name, norm in model.named_modules() if name.endswith('bn2'))
