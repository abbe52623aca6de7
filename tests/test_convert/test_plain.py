"""A checkpoint of ResIST for plain mmdet."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader

from resist_mm.checkpoint import add_digest, loading, read_checkpoint
from resist_mm.convert.plain import fold_checkpoint, main, plain_config
from resist_mm.models import partitioned_stages
from tests.test_tools.commands import run_tool

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
            default_hooks=dict(
                checkpoint=dict(type='resist_mm.SafeCheckpointHook', interval=3, background=True),
            ),
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


@pytest.mark.parametrize(
    'backbone', [pytest.param(name, marks=[] if name == 'builder' else pytest.mark.slow) for name in BACKBONES]
)
def test_plain_mmdet_loads_and_computes_the_same(tmp_path: Path, backbone: str):
    model, checkpoint = trained(config(BACKBONES[backbone]))
    add_digest(checkpoint)
    torch.save(checkpoint, tmp_path / 'in.pth')
    out = run_tool('model_converters/fold_scale.py', tmp_path / 'in.pth', tmp_path / 'out.pth')
    assert 'resist_mm is not needed' in out.splitlines()[-1]
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
    folded = read_checkpoint(tmp_path / 'out.pth')  # compares the digest, which is another one
    assert 'optimizer' not in folded and 'model_sha256' in folded['meta']


def test_a_config_without_what_resist_mm_put_in():
    plain = plain_config(config(BACKBONES['builder']))
    assert plain.model.backbone == RESNET
    assert plain.custom_hooks == [dict(type='NumClassCheckHook')]
    assert plain.default_hooks == dict(checkpoint=dict(type='CheckpointHook', interval=3))
    assert 'model_wrapper_cfg' not in plain and 'custom_imports' not in plain


def test_a_checkpoint_that_cannot_be_folded_is_left_alone_with_the_reason(tmp_path: Path, capsys):
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
    for target, status, message in (('out.pth', 1, 'backbone.conv1.weight'), ('in.pth', 2, 'the same file')):
        with pytest.raises(SystemExit) as stop:
            fold(tmp_path / 'in.pth', tmp_path / target)
        assert stop.value.code == status and message in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ['in.pth']


@pytest.mark.parametrize('imports', ['resist_mm', ['resist_mm', 'mine'], 'mine', ['resist_mm.hooks']])
def test_the_import_goes_only_where_nothing_needs_it(imports: str | list[str]):
    cfg = config(BACKBONES['builder'])
    cfg.custom_imports.imports = imports
    others = [name for name in ([imports] if isinstance(imports, str) else imports) if name == 'mine']
    found = plain_config(cfg).get('custom_imports', {}).get('imports', [])
    assert ([found] if isinstance(found, str) else found) == others
    cfg.val_evaluator = [dict(type='resist_mm.LossMetric')]
    assert plain_config(cfg).custom_imports.imports == imports


def test_types_by_their_path_are_taken_out_too():
    cfg = config(dict(RESNET, type='resist_mm.models.partitioned.Partitioned', model='ResNet', stages=['layer3']))
    cfg.custom_hooks = [dict(type='resist_mm.hooks.resist_hook.ResISTHook', local_iters=5)]
    plain = plain_config(cfg)
    assert plain.model.backbone == RESNET and plain.custom_hooks == []


@pytest.fixture(autouse=True)
def loaders(monkeypatch: pytest.MonkeyPatch):
    """The command changes how this process loads checkpoints."""
    monkeypatch.setenv(loading.FORCE_SAFE, '0')  # is restored, whatever is set
    monkeypatch.setattr(CheckpointLoader, '_schemes', dict(CheckpointLoader._schemes))
    monkeypatch.setattr(loading, '_state', {})


def fold(*words: object) -> None:
    main([str(word) for word in words])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A work dir, as mmengine leaves it, with a metric of this package."""
    cfg = config(BACKBONES['builder'])
    cfg.val_evaluator = dict(type='resist_mm.LossMetric')
    _, checkpoint = trained(cfg)
    torch.save(checkpoint, tmp_path / 'epoch_1.pth')
    cfg.dump(tmp_path / 'run.py')
    return tmp_path


@pytest.mark.parametrize(
    ('target', 'message'),
    [
        ('run.pth', 'run.py, which is there already: choose another OUT'),
        ('run.py', 'OUT is the checkpoint to write, such as .*run.pth, got .*run.py'),
        ('new.py', 'OUT is the checkpoint to write'),
    ],
)
def test_the_config_of_the_run_is_not_overwritten(run: Path, capsys, target: str, message: str):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    with pytest.raises(SystemExit):
        fold(run / 'epoch_1.pth', run / target)
    assert re.search(message, capsys.readouterr().err)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_the_command_says_what_still_needs_the_package(run: Path, capsys):
    fold(run / 'epoch_1.pth', run / 'plain' / 'run.pth')
    assert 'resist_mm is needed for resist_mm.LossMetric' in capsys.readouterr().out
    plain = Config.fromfile(run / 'plain' / 'run.py')
    assert plain.model.backbone == RESNET and plain.custom_imports.imports == ['resist_mm']
    fold(run / 'epoch_1.pth', run / 'given.pth', '--config', run / 'run.py')
    assert (run / 'given.py').is_file()


def test_what_the_command_cannot_read_is_a_line(run: Path, capsys):
    meta = dict(cfg='model = dict(')
    files = dict(text=None, numbers=[1, 2], weights=dict(a=torch.zeros(1)), cfg=dict(state_dict={}, meta=meta))
    for name, content in files.items():
        torch.save(content, run / f'{name}.pth')
    (run / 'text.pth').write_text('no checkpoint')
    config_ = run / 'run.py'
    for words, message in (
        (['epoch_1.pth', '--config', 'nope.py'], 'there is no config file nope.py'),
        (['epoch_1.pth', '--config', 'mmdet::retinanet/nope.py'], "mmdet has no config 'retinanet/nope.py'"),
        (['text.pth'], r'text\.pth'),
        (['numbers.pth', '--config', config_], r'numbers\.pth: it is no checkpoint as mmengine saves it'),
        (['weights.pth', '--config', config_], r'weights\.pth: it is no checkpoint as mmengine saves it'),
        (['cfg.pth'], 'the config in the checkpoint cannot be read: .*--config'),
    ):
        with pytest.raises(SystemExit) as stop:
            fold(run / str(words[0]), run / 'out.pth', *words[1:])
        assert stop.value.code == 1
        assert re.search(message, capsys.readouterr().err), message
    assert not (run / 'out.pth').exists()


def test_a_model_that_cannot_be_built(run: Path):
    _, checkpoint = trained(config(BACKBONES['builder']))
    cfg = copy.deepcopy(config(BACKBONES['builder']))
    cfg.model.type = 'NoSuchDetector'
    with pytest.raises(ValueError, match='the model of the config cannot be built: NoSuchDetector'):
        fold_checkpoint(checkpoint, cfg)
