"""Classifier, ensemble and the networks of the paper."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from torch import Tensor, nn
from torch.testing import assert_close

from resist_mm.models import partitioned_stages
from resist_mm.models.classifiers import ImageClassifier
from resist_mm.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs/_base_/models'
NORMALIZE = [
    dict(type='ToDtype', dtype='float32', scale=True),
    dict(type='Normalize', mean=[0.5] * 3, std=[0.25] * 3),
]


def tiny(**overrides: object) -> dict:
    backbone = dict(
        type='resist_mm.PreActResNet',
        block='basic',
        stage_blocks=(1, 1, 3, 1),
        stem='cifar',
        base_channels=4,
        out_indices=(3,),
    )
    return {**dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=5), **overrides}


def build(**overrides: object) -> ImageClassifier:
    torch.manual_seed(0)
    model = MODELS.build(tiny(**overrides))
    model.init_weights()
    return model


def batch(size: int = 6) -> dict[str, Tensor]:
    torch.manual_seed(1)
    return dict(inputs=torch.randn(size, 3, 16, 16), labels=torch.arange(size) % 5)


@pytest.mark.parametrize('init', ['kaiming', 'torch'])
def test_the_head_begins_with_pytorch_s_own_weights(init: str):
    model = MODELS.build(tiny(backbone=dict(tiny()['backbone'], base_channels=32, init=init), num_classes=100))
    before = [p.detach().clone() for p in model.head.parameters()]
    model.init_weights()
    bound = model.head.in_features**-0.5
    for p, value in zip(model.head.parameters(), before, strict=True):
        assert torch.equal(p, value)
        assert 0.9 * bound < p.abs().max() <= bound
        assert p.detach().std() == pytest.approx(bound / 3**0.5, rel=0.25)


def test_modes():
    model, data = build().eval(), batch()
    logits = model(**data)
    assert logits.shape == (6, 5)
    pooled = F.adaptive_avg_pool2d(model.backbone(data['inputs'])[-1], 1).flatten(1)
    assert_close(logits, model.head(pooled))
    loss = model(**data, mode='loss')['loss']
    assert_close(loss, F.cross_entropy(logits, data['labels']))
    predicted = model(**data, mode='predict')
    assert [sample['label'] for sample in predicted] == data['labels'].tolist()
    assert sum(sample['loss'] for sample in predicted) / 6 == pytest.approx(loss.item(), rel=1e-5)
    assert_close(torch.stack([sample['logits'] for sample in predicted]), logits)
    assert set(model(data['inputs'], mode='predict')[0]) == {'logits'}


def test_wrong_modes():
    with pytest.raises(ValueError, match="mode must be 'tensor', 'loss' or 'predict', got 'train'"):
        build()(**batch(), mode='train')
    with pytest.raises(ValueError, match='needs labels'):
        build()(batch()['inputs'], mode='loss')


def test_a_backbone_that_does_not_know_its_channels():
    class Silent(nn.Module):
        pass

    with pytest.raises(ValueError, match=r'in_channels is needed: Silent'):
        ImageClassifier(backbone=dict(type=Silent), num_classes=2)


def test_channels_last_computes_the_same():
    plain, last = build().eval(), build(channels_last=True).eval()
    last.load_state_dict(plain.state_dict())
    weights = [p for p in last.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    features: list[Tensor] = []
    last.backbone.layer4.register_forward_hook(lambda module, args, output: features.append(output))
    assert_close(last(**batch()), plain(**batch()), rtol=1e-4, atol=1e-5)
    assert features[0].is_contiguous(memory_format=torch.channels_last)


def test_mixed_precision_trains():
    model = build(channels_last=True)
    seen: list[torch.dtype] = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = model(**batch(), mode='loss')['loss']
    assert seen == [torch.bfloat16]
    assert loss.dtype is torch.float32, 'the loss is taken in single precision'
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_train_step_augments_and_a_test_step_does_not():
    train = [dict(type='RandomHorizontalFlip', p=1.0), *NORMALIZE]
    model = build(
        data_preprocessor=dict(type='resist_mm.BatchPreprocessor', train_pipeline=train, test_pipeline=NORMALIZE)
    )
    images = torch.randint(256, (2, 3, 8, 8), dtype=torch.uint8)
    data = dict(inputs=images, labels=torch.tensor([0, 1]))
    plain = (images / 255 - 0.5) / 0.25
    assert_close(model.data_preprocessor(data, True)['inputs'], plain.flip(-1))
    assert_close(model.data_preprocessor(data, False)['inputs'], plain)
    assert torch.equal(data['inputs'], images), 'the batch itself was changed'


def plain_forward(model: ImageClassifier, x: Tensor) -> Tensor:
    """The paper's CIFAR network, written down a second time from its description, on the state dict."""
    weights = model.state_dict()

    def norm(x: Tensor, name: str) -> Tensor:
        mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
        gain, shift = (weights[f'{name}.{part}'].view(1, -1, 1, 1) for part in ('weight', 'bias'))
        return (x - mean) / torch.sqrt(var + 1e-5) * gain + shift

    x = F.conv2d(x, weights['backbone.stem.0.weight'], padding=1)
    for stage, num_blocks in enumerate(model.backbone.stage_blocks, start=1):
        for i in range(num_blocks):
            name = f'backbone.layer{stage}.{i}'
            stride = 2 if stage > 1 and i == 0 else 1
            active = F.relu(norm(x, f'{name}.norm1'))
            shortcut = x
            if f'{name}.downsample.weight' in weights:
                shortcut = F.conv2d(active, weights[f'{name}.downsample.weight'], stride=stride)
            y = F.conv2d(active, weights[f'{name}.conv1.weight'], stride=stride, padding=1)
            x = shortcut + F.conv2d(F.relu(norm(y, f'{name}.norm2')), weights[f'{name}.conv2.weight'], padding=1)
    return F.linear(F.avg_pool2d(x, 4).flatten(1), weights['head.weight'], weights['head.bias'])


def published() -> Iterator[tuple[int, tuple[int, ...], int]]:
    # one partitioned block has 1,180,672 parameters
    for layers, in_stage3 in ((101, 23), (152, 36), (200, 50)):
        yield layers, (3, 4, in_stage3, 3), 41_396_900 + (in_stage3 - 23) * 1_180_672


@pytest.mark.parametrize('layers, stage_blocks, num_params', list(published()))
def test_the_published_networks(layers: int, stage_blocks: tuple[int, ...], num_params: int):
    cfg = Config.fromfile(CONFIGS / 'preact-resnet101_cifar100.py').model
    cfg.backbone.stage_blocks = stage_blocks
    with torch.device('meta'):
        model = MODELS.build(cfg)
    assert sum(p.numel() for p in model.parameters()) == num_params
    (stage,) = partitioned_stages(model).values()
    assert stage.num_partitioned == stage_blocks[2] - 1
    assert sum(p.numel() for p in stage.block_parameters(0)) == 1_180_672


@pytest.mark.parametrize('stage_blocks', [blocks for _, blocks, _ in published()])
def test_the_same_weights_give_the_same_outputs_as_a_plain_forward(stage_blocks: tuple[int, ...]):
    cfg = Config.fromfile(CONFIGS / 'preact-resnet101_cifar100.py').model
    cfg.backbone.update(stage_blocks=stage_blocks, base_channels=8)  # narrow, to be fast
    torch.manual_seed(0)
    model = MODELS.build(cfg).double().train()
    for name, p in model.named_parameters():
        if 'norm' in name:
            nn.init.uniform_(p, 0.5, 1.5)
    x = torch.randn(3, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        assert_close(model(x), plain_forward(model, x), rtol=1e-8, atol=1e-8)


def test_an_ensemble_averages_logits(tmp_path: Path):
    members = []
    for seed in range(3):
        model = build().eval()
        torch.manual_seed(seed)
        nn.init.normal_(model.head.weight)
        torch.save(dict(state_dict=model.state_dict()), tmp_path / f'{seed}.pth')
        members.append(model)
    checkpoints = [str(tmp_path / f'{seed}.pth') for seed in range(3)]
    ensemble = MODELS.build(
        dict(type='resist_mm.EnsembleClassifier', member=tiny(), checkpoints=checkpoints)
    ).eval()
    logits = sum(member(**batch()) for member in members) / 3
    assert_close(ensemble(**batch()), logits)
    predicted = ensemble(**batch(), mode='predict')
    assert_close(torch.stack([sample['logits'] for sample in predicted]), logits)
    assert predicted[0]['loss'] == pytest.approx(F.cross_entropy(logits[:1], batch()['labels'][:1]).item())
    with pytest.raises(ValueError, match="got 'loss': train the members separately"):
        ensemble(**batch(), mode='loss')
    with pytest.raises(ValueError, match='must name a checkpoint for every member'):
        MODELS.build(dict(type='resist_mm.EnsembleClassifier', member=tiny(), checkpoints=[]))


def test_classification_runs_without_mmdet():
    code = (
        "import sys; sys.modules['mmdet'] = None\n"
        'import importlib.util as u; real = u.find_spec\n'
        "u.find_spec = lambda name, *a: None if name == 'mmdet' else real(name, *a)\n"
        'import resist_mm, torch\n'
        'from resist_mm.registry import MODELS\n'
        f'model = MODELS.build({tiny()!r})\n'
        'print(model(torch.rand(2, 3, 8, 8)).shape)'
    )
    result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert 'torch.Size([2, 5])' in result.stdout


def test_mmpretrain_takes_the_backbone():
    pytest.importorskip('mmpretrain', reason='mmpretrain (onedl-mmpretrain) is not installed')
    from mmpretrain.registry import MODELS as MMPRETRAIN_MODELS

    model = MMPRETRAIN_MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=tiny()['backbone'],
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=5, in_channels=32, loss=dict(type='CrossEntropyLoss')),
        )
    )
    data = batch()
    assert model(data['inputs'], mode='tensor').shape == (6, 5)
    assert model.extract_feat(data['inputs'])[0].shape == (6, 32)
    assert len(list(partitioned_stages(model).values())) == 1
