"""A checkpoint of ResIST for plain mmdet."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from resist_mm.convert.plain import fold_checkpoint, plain_config
from resist_mm.models import partitioned_stages
from tests.test_tools.commands import run_tool, start_tool

RESNET = dict(type='ResNet', depth=18, base_channels=8)
# reads only what is plain: resist_mm cannot be imported
PLAIN = """
import sys
sys.modules['resist_mm'] = None
import torch
from mmdet.apis import init_detector
model = init_detector(sys.argv[1], sys.argv[2], palette='coco', device='cpu')
torch.save([out for out in model.extract_feat(torch.load(sys.argv[3]))], sys.argv[4])
print(type(model.backbone).__module__)
"""


def config(backbone: dict) -> Config:
    head = dict(type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1)
    model = dict(
        type='RetinaNet',
        data_preprocessor=dict(type='DetDataPreprocessor'),
        backbone=backbone,
        neck=dict(type='FPN', in_channels=[8, 16, 32, 64], out_channels=8, num_outs=5),
        bbox_head=head,
    )
    pipeline = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(64, 64)), dict(type='PackDetInputs')]
    return Config(
        dict(
            default_scope='mmdet',
            model=model,
            custom_imports=dict(imports=['resist_mm'], allow_failed_imports=False),
            custom_hooks=[dict(type='NumClassCheckHook'), dict(type='resist_mm.ResISTHook', local_iters=5)],
            model_wrapper_cfg=dict(type='resist_mm.LocalModel'),
            test_dataloader=dict(dataset=dict(pipeline=pipeline)),
        )
    )


BACKBONES = dict(
    builder=dict(type='resist_mm.Partitioned', model=RESNET, stages=['layer3']),
    beside=dict(RESNET, type='resist_mm.Partitioned', model='ResNet', stages=['layer3']),
    class_=dict(RESNET, type='resist_mm.PartitionableResNet', partition_stages=('layer3',)),
)


def trained(cfg: Config) -> tuple[torch.nn.Module, dict]:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        model = MODELS.build(cfg.model)
    [stage] = partitioned_stages(model).values()
    stage.scale.fill_(0.5)
    meta = dict(cfg=cfg.pretty_text, epoch=1, dataset_meta=dict(CLASSES=('a', 'b')))
    return model.eval(), dict(meta=meta, state_dict=model.state_dict(), optimizer=dict(state=1))


@pytest.mark.parametrize('backbone', BACKBONES)
def test_plain_mmdet_loads_and_computes_the_same(tmp_path: Path, backbone: str):
    model, checkpoint = trained(config(BACKBONES[backbone]))
    torch.save(checkpoint, tmp_path / 'in.pth')
    out = run_tool('model_converters/fold_scale.py', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'resist_mm is not needed' in out
    images = torch.rand(1, 3, 64, 64)
    torch.save(images, tmp_path / 'images.pt')
    files = [tmp_path / name for name in ('out.py', 'out.pth', 'images.pt', 'features.pt')]
    result = subprocess.run(
        [sys.executable, '-c', PLAIN, *map(str, files)], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.splitlines()[-1] == 'mmdet.models.backbones.resnet'
    assert 'unexpected key' not in result.stdout + result.stderr
    assert 'missing keys' not in result.stdout + result.stderr
    expected = model.extract_feat(images)
    found = torch.load(tmp_path / 'features.pt')
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True)), 'the scale is a power of two'
    assert 'optimizer' not in torch.load(tmp_path / 'out.pth', weights_only=False)


def test_a_config_without_what_resist_mm_put_in():
    plain = plain_config(config(BACKBONES['builder']))
    assert plain.model.backbone == RESNET
    assert plain.custom_hooks == [dict(type='NumClassCheckHook')]
    assert 'model_wrapper_cfg' not in plain and 'custom_imports' not in plain


def test_a_checkpoint_that_cannot_be_folded_is_left_alone_with_the_reason(tmp_path: Path):
    cfg = config(BACKBONES['builder'])
    _, checkpoint = trained(cfg)
    del checkpoint['state_dict']['backbone.conv1.weight']
    with pytest.raises(ValueError, match=r'(?s)not those of the config: .*backbone.conv1.weight'):
        fold_checkpoint(checkpoint)
    with pytest.raises(ValueError, match='name it with --config'):
        fold_checkpoint(dict(checkpoint, meta={}))
    cfg.model.backbone = RESNET
    with pytest.raises(ValueError, match='no partitioned stage'):
        fold_checkpoint(checkpoint, cfg)
    torch.save(checkpoint, tmp_path / 'in.pth')
    result = start_tool('model_converters/fold_scale.py', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert result.returncode == 1 and 'backbone.conv1.weight' in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ['in.pth']
    result = start_tool('model_converters/fold_scale.py', tmp_path / 'in.pth', tmp_path / 'in.pth')
    assert result.returncode == 2 and 'the same file' in result.stdout
