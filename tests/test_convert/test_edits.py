"""Configs whose types are classes, whose hooks are objects, whose wrapper or stages are unusual."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from torch import nn

from resist_mm import launch
from resist_mm.convert import change_config, convert_as_asked, to_ddp, to_resist
from resist_mm.convert.build import build_to_look_at
from resist_mm.convert.choice import hands_in_words
from resist_mm.convert.edits import wrap_model
from resist_mm.convert.plain import plain_config
from resist_mm.hooks import ResISTHook
from resist_mm.models.partition import partitioned_stages
from tests.test_convert.test_convert import classifier, parse

LAZY = """
from mmdet.models.backbones import ResNet
from mmengine.hooks import EMAHook
from torch import nn
from resist_mm.models import ImageClassifier

norm = dict(type=nn.SyncBatchNorm, process_group=None)
model = dict(
    type=ImageClassifier,
    num_classes=5,
    backbone=dict(type=ResNet, depth=50, base_channels=8, norm_cfg=dict(type='SyncBN')),
)
custom_hooks = [dict(type=EMAHook)]
"""


def test_a_config_with_classes_can_be_written_and_read_again(tmp_path: Path):
    pytest.importorskip('mmdet')
    (tmp_path / 'lazy.py').write_text(LAZY)
    cfg, changes = to_resist(tmp_path / 'lazy.py', workers=2)
    assert any("type='ResNet' became" in change for change in changes)
    cfg.dump(tmp_path / 'whole.py')
    read = Config.fromfile(tmp_path / 'whole.py')
    assert read.to_dict() == cfg.to_dict()
    assert Config.fromstring(cfg.pretty_text, '.py').to_dict() == cfg.to_dict(), 'as it is in a checkpoint'
    assert list(partitioned_stages(build_to_look_at(read))) == ['backbone.layer3']
    backbone = plain_config(read).model.backbone
    assert backbone.type.startswith('mmdet.') and backbone.type.endswith('.ResNet') and 'stages' not in backbone


def test_classes_among_arguments_that_are_kept_apart_stay_names():
    cfg = Config(dict(model=dict(type='A', backbone=dict(type=nn.Linear, model='c', depth=3))))
    wrap_model(cfg, ['backbone.layer3'])
    assert cfg.model.backbone.model == dict(type='torch.nn.modules.linear.Linear', model='c', depth=3)


def test_sync_bn_becomes_bn_where_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for gpu, norm in ((False, 'BN'), (True, 'SyncBN')):
        monkeypatch.setattr(torch.cuda, 'is_available', lambda gpu=gpu: gpu)
        cfg, changes = convert_as_asked(classifier(), parse('--ddp'), str(tmp_path))
        assert cfg.model.backbone.norm_cfg.type == norm
        assert any('(SyncBN needs GPUs)' in change for change in changes) != gpu


def test_ddp_takes_options_of_its_own_wrapper_alone():
    ddp = dict(type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False)
    own = dict(type=MMDistributedDataParallel, static_graph=True)
    assert to_ddp(classifier(model_wrapper_cfg=own)).cfg.model_wrapper_cfg == dict(**ddp, static_graph=True)
    local = dict(type='resist_mm.LocalModel', find_unused_parameters=True)
    assert to_ddp(classifier(model_wrapper_cfg=local)).cfg.model_wrapper_cfg == ddp
    other = dict(type='mmengine.MMFullyShardedDataParallel', cpu_offload=True)
    with pytest.raises(ValueError, match="model_wrapper_cfg has type 'MMFullyShardedDataParallel', which --ddp"):
        to_ddp(classifier(model_wrapper_cfg=other))


def test_hooks_that_are_objects_are_kept_and_named():
    hook = EMAHook()
    cfg, changes = to_resist(classifier(custom_hooks=[hook]), workers=2)
    assert isinstance(cfg.custom_hooks[0], EMAHook)
    assert any(change.endswith(' after EMAHook') for change in changes)
    with pytest.raises(ValueError, match=r'custom_hooks\.0 of .* is a ResISTHook'):
        to_resist(classifier(custom_hooks=[ResISTHook(local_iters=2)]), workers=2)


def test_options_for_a_hook_that_is_not_there():
    option = {'custom_hooks.0.local_iters': 3}
    for hooks in (None, []):
        with pytest.raises(ValueError, match=r'--cfg-options: .* adds go behind these'):
            change_config(classifier(custom_hooks=hooks), option)
    cfg = classifier()
    cfg.pop('custom_hooks')
    change_config(cfg, option)
    for convert in (lambda: to_resist(cfg, workers=2), lambda: launch.check_wrapper(cfg)):
        with pytest.raises(
            ValueError, match=r"custom_hooks must be a list of hooks, got \{'0': .*go behind these"
        ):
            convert()


class MyHook(ResISTHook):
    """A subclass."""


@pytest.mark.parametrize('kind', [ResISTHook, MyHook, 'resist_mm.hooks.resist_hook.ResISTHook', 'LocalSGDHook'])
def test_a_hook_of_rounds_needs_a_wrapper_however_it_is_given(kind: str | type):
    with pytest.raises(ValueError, match=r'custom_hooks has \w+Hook, but model_wrapper_cfg is missing'):
        launch.check_wrapper(Config(dict(launcher='pytorch', custom_hooks=[dict(type=kind)])))
    launch.check_wrapper(Config(dict(launcher='pytorch', custom_hooks=[dict(type='EMAHook'), EMAHook()])))


CHAINS = r'.*The chains found in this model: backbone\.layer2, backbone\.layer3, backbone\.layer4$'


@pytest.mark.parametrize(
    ('stages', 'message'),
    [
        (3, r'stages must be a path such as "backbone.layer3", or several of them, got 3'),
        (['backbone.layer3', 3], r'stages must be a path .*, got \['),
        ('backbone', "'backbone', which is no chain of blocks: its ReLU has no parameters" + CHAINS),
        ('backbone.layer1', 'its blocks are frozen' + CHAINS),
        ('backbone.layer9', 'has no such module' + CHAINS),
    ],
)
def test_stages_that_are_wrong(stages: object, message: str):
    with pytest.raises(ValueError, match=message):
        to_resist(classifier(), workers=2, stages=stages)  # type: ignore[arg-type]


def test_parallel_branches_are_not_taken_in_silence():
    pytest.importorskip('mmdet')
    config = 'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'
    _, changes = to_resist(config, workers=2, stages='neck.fpn_convs[:]')
    assert any('neck.fpn_convs[:]: blocks of ConvModule are not known to be residual' in c for c in changes)
    _, changes = to_resist(config, workers=2, stages='backbone.layer3')
    assert not any('residual' in change for change in changes)


def test_many_workers_are_a_range():
    assert hands_in_words([5, 4, 4]) == '[5, 4, 4]'
    assert hands_in_words([5, 6] * 50) == '5 to 6 each'
    assert hands_in_words([5] * 9) == '5 each'
