"""What a conversion changes in a config, and what it leaves; with a config that every change applies to."""

from __future__ import annotations

import argparse
import copy

import pytest
from mmengine.config import Config

import resist_mm
from resist_mm.convert import add_arguments, convert_as_asked, read_config, to_ddp, to_local_sgd, to_resist
from resist_mm.convert.build import build_to_look_at
from resist_mm.models.partition import partitioned_stages

BN = dict(type='BN', requires_grad=True)


def classifier(**changes) -> Config:
    """A classifier with mmdet's ResNet-50, thin, with everything that stands in the way."""
    pytest.importorskip('mmdet')
    norm = dict(type='SyncBN', requires_grad=True)
    backbone = dict(type='mmdet.ResNet', depth=50, base_channels=8, frozen_stages=1, norm_cfg=norm)
    settings = dict(
        model=dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=5),
        custom_hooks=[dict(type='NumClassCheckHook'), dict(type='SyncBuffersHook')],
        custom_imports=dict(imports='mmdet.models', allow_failed_imports=True),
        model_wrapper_cfg=dict(type='MMDistributedDataParallel', find_unused_parameters=True),
        sync_bn='torch',
        norm_cfg=dict(type='MMSyncBN', stats_mode='N'),
    )
    return Config({**settings, **changes})


def test_everything_that_changes_and_nothing_else():
    cfg = classifier()
    before = copy.deepcopy(cfg.to_dict())
    converted, changes = to_resist(cfg, workers=4, local_iters=20, bn='average')
    assert cfg.to_dict() == before, 'the config given was changed'

    expected = copy.deepcopy(before)
    inner = expected['model']['backbone']
    inner.update(type='resist_mm.Partitioned', model='mmdet.ResNet', stages=['layer2', 'layer3'], norm_cfg=BN)
    expected['custom_hooks'] = [
        dict(type='NumClassCheckHook'),
        dict(type='resist_mm.ResISTHook', local_iters=20, min_blocks=2, bn='average'),
    ]
    expected['custom_imports'] = dict(imports=['mmdet.models', 'resist_mm'], allow_failed_imports=True)
    expected['model_wrapper_cfg'] = dict(type='resist_mm.LocalModel')
    expected['norm_cfg'] = dict(type='BN')
    expected['randomness'] = dict(seed=None, diff_rank_seed=True)
    del expected['sync_bn']
    expected['default_hooks'] = dict(checkpoint=dict(type='resist_mm.SafeCheckpointHook'))
    assert converted.to_dict() == expected
    for key in (
        'stages',
        'model.backbone',
        'min_blocks',
        'custom_hooks',
        'custom_imports',
        'SyncBN',
        'sync_bn',
        'default_hooks',
    ):
        assert any(change.startswith(key) for change in changes), key
    assert any('SyncBuffersHook' in change for change in changes)
    assert any('norm_eval=True' in change for change in changes), 'no hint for training from scratch'


def test_what_is_there_already_stays():
    cfg = classifier(
        custom_imports=dict(imports=['resist_mm']),
        randomness=dict(seed=3),
        load_from='weights.pth',
        custom_hooks=None,
    )
    converted, changes = to_resist(cfg, workers=2)
    assert converted.custom_imports == dict(imports=['resist_mm'])
    assert converted.randomness == dict(seed=3)
    assert not any('hint' in change for change in changes)
    assert len(converted.custom_hooks) == 1


def test_a_result_does_not_need_the_conversion_again(tmp_path):
    converted, _ = to_resist(classifier(), workers=4)
    converted.dump(tmp_path / 'whole.py')
    read = Config.fromfile(tmp_path / 'whole.py')
    assert read.to_dict() == converted.to_dict()
    assert list(partitioned_stages(build_to_look_at(read))) == ['backbone.layer2', 'backbone.layer3']
    with pytest.raises(ValueError, match=r'custom_hooks\.1 of .*whole\.py is a ResISTHook'):
        to_resist(tmp_path / 'whole.py', workers=4)
    with pytest.raises(ValueError, match='has a protocol already'):
        to_ddp(read)


def test_stages_that_are_named():
    converted, _ = to_resist(classifier(), workers=2, stages='backbone.layer2[:]', min_blocks=2)
    assert converted.model.backbone.stages == ['layer2[:]']
    assert converted.custom_hooks[-1].min_blocks == 2


def test_a_stage_outside_of_the_backbone_wraps_the_whole_model():
    pytest.importorskip('mmdet')
    from mmdet.apis import init_detector

    stages = ['backbone.layer3', 'encoder.layers[:]']
    cfg, _ = to_resist('mmdet::detr/detr_r50_8xb2-150e_coco.py', workers=2, stages=stages)
    assert (cfg.model.type, cfg.model.model, cfg.model.stages) == ('resist_mm.Partitioned', 'DETR', stages)
    detector = init_detector(cfg, None, device='cpu')
    assert list(partitioned_stages(detector)) == ['backbone.layer3', 'encoder.layers']
    assert type(detector).__name__ == 'DETR'
    assert cfg.model.backbone.init_cfg is None, 'init_detector no longer finds the backbone'


def test_arguments_that_the_builder_would_take_for_its_own_are_kept_apart():
    from resist_mm.convert.edits import wrap_model

    cfg = Config(dict(model=dict(type='A', backbone=dict(type='B', model='c', depth=3))))
    wrap_model(cfg, ['backbone.layer3'])
    assert cfg.model.backbone == dict(
        type='resist_mm.Partitioned', stages=['layer3'], model=dict(type='B', model='c', depth=3)
    )


def test_a_model_that_partitions_by_itself():
    backbone = dict(type='resist_mm.PartitionableResNet', depth=50)
    cfg = classifier(model=dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=5))
    converted, changes = to_resist(cfg, workers=2)
    assert converted.model == cfg.model
    assert 'backbone.layer3, which the model partitions by itself' in changes[0]
    with pytest.raises(ValueError, match=r"the model partitions \['backbone.layer3'\] by itself"):
        to_resist(cfg, workers=2, stages='backbone.layer2')


def test_local_sgd_and_ddp():
    converted, _ = to_local_sgd(classifier(), local_iters=7)
    assert converted.custom_hooks[-1] == dict(type='resist_mm.LocalSGDHook', local_iters=7)
    assert converted.model.backbone.type == 'mmdet.ResNet'
    assert converted.model.backbone.norm_cfg == BN

    converted, changes = to_ddp(classifier())
    assert converted.model == classifier().model
    assert converted.model_wrapper_cfg == dict(
        type='MMDistributedDataParallel', device_ids=None, broadcast_buffers=False, find_unused_parameters=True
    )
    assert converted.default_hooks.checkpoint.type == 'resist_mm.SafeCheckpointHook'
    assert converted.custom_imports.imports == ['mmdet.models', 'resist_mm']
    assert [change.split(':')[0] for change in changes] == [
        'model_wrapper_cfg',
        'default_hooks.checkpoint',
        'custom_imports',
    ]


def test_checkpoints_are_saved_safely():
    cfg = classifier(
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=3, _scope_='mmdet')),
        custom_hooks=[dict(type='mmengine.CheckpointHook', interval=1), dict(type='EMAHook')],
    )
    converted, changes = to_ddp(cfg)
    expected = dict(type='resist_mm.SafeCheckpointHook', interval=3, _scope_='mmdet')
    assert converted.default_hooks.checkpoint == expected
    assert [hook.type for hook in converted.custom_hooks] == ['resist_mm.SafeCheckpointHook', 'EMAHook']
    said = [change for change in changes if 'in place of CheckpointHook' in change]
    assert [change.split(':')[0] for change in said] == ['default_hooks.checkpoint', 'custom_hooks.0']
    for other in (None, dict(type='MyCheckpoints')):
        converted, changes = to_ddp(classifier(default_hooks=dict(checkpoint=other)))
        assert converted.default_hooks.checkpoint == other and len(changes) == 2


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(stage='layer3'), r"no option 'stage'; there are stages, min_blocks, warmup_rounds, .*local_iters"),
        (dict(stages='backbone.layer5'), r"no such module; the nearest are \['backbone.layer"),
        (dict(stages='backbone.layer1'), r"'backbone.layer1', but its blocks are frozen: .*frozen_stages"),
        (dict(min_blocks=5, stages='backbone.layer3'), r'min_blocks=5 each of the 4 workers would hold all'),
        (dict(min_blocks=6, stages='backbone.layer3'), r'min_blocks=6 asks for more blocks than the 5'),
        (dict(local_iters=0), r'ResISTHook.local_iters must be an integer of at least 1, got 0'),
        (dict(local_iters='x'), r"ResISTHook.local_iters must be an integer of at least 1, .*, got 'x'"),
        (dict(codec=dict(type='quantize', bit=6)), r"--resist \(to_resist\): .*unexpected keyword argument 'bit'"),
        (dict(codec='bf16'), r'codec must be dict\(type=\.\.\.\) with one of'),
        (dict(workers=1), r'ResIST needs at least 2 workers, got 1'),
    ],
)
def test_errors_name_what_is_wrong(options, message):
    with pytest.raises(ValueError, match=message):
        to_resist(classifier(), **{'workers': 4, **options})


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument('--resume', nargs='?', const='auto')
    add_arguments(parser)
    return parser.parse_args(words)


def test_the_command_line(monkeypatch, tmp_path):
    monkeypatch.setenv('WORLD_SIZE', '4')
    asked = parse('--resist', 'stages=backbone.layer3[:],backbone.layer2', 'codec.type=quantize', 'codec.bits=6')
    converted, _ = convert_as_asked(classifier(), asked, str(tmp_path))
    assert converted.model.backbone.stages == ['layer3[:]', 'layer2']
    assert converted.custom_hooks[-1].codec == dict(type='quantize', bits=6)

    assert convert_as_asked(classifier(), parse(), str(tmp_path)).cfg.to_dict() == classifier().to_dict()
    converted, _ = convert_as_asked(classifier(), parse('--local-sgd', 'local_iters=3'), str(tmp_path))
    assert converted.custom_hooks[-1].local_iters == 3
    assert convert_as_asked(classifier(), parse('--ddp'), str(tmp_path)).cfg.model_wrapper_cfg.device_ids is None

    with pytest.raises(ValueError, match='the number of workers is that of the launcher'):
        convert_as_asked(classifier(), parse('--resist', 'workers=2'), str(tmp_path))
    for name in ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE'):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r'tools/dist_train.sh CONFIG WORKERS --resist'):
        convert_as_asked(classifier(), parse('--resist'), str(tmp_path))


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--resist', '--ddp'], 'argument --ddp: not allowed with argument --resist'),
        (['--resist', 'config.py'], "--resist takes KEY=VALUE, got 'config.py'; the config comes before --resist"),
        (['--ddp', '--local-sgd'], 'argument --local-sgd: not allowed with argument --ddp'),
    ],
)
def test_command_lines_that_are_refused(words, message, capsys):
    with pytest.raises(SystemExit):
        parse(*words)
    assert message in capsys.readouterr().err


def test_a_run_that_is_resumed_by_more_workers_keeps_its_stages(monkeypatch, tmp_path):
    file = tmp_path / 'mine.py'
    classifier().dump(file)
    work_dir = tmp_path / 'run'
    work_dir.mkdir()
    of_workers = {}
    for workers in ('2', '4'):
        monkeypatch.setenv('WORLD_SIZE', workers)
        for resume in ([], ['--resume']):
            converted, changes = convert_as_asked(read_config(file), parse('--resist', *resume), str(work_dir))
            of_workers[workers, bool(resume)] = converted.model.backbone.stages
            if workers == '2':
                converted.dump(work_dir / 'mine.py')
    assert of_workers[('2', False)] == of_workers[('2', True)] == of_workers[('4', True)] == ['layer3']
    assert of_workers[('4', False)] == ['layer2', 'layer3']
    assert changes[0].startswith('kept from the run that is resumed') and 'layer3' in changes[0]


def test_configs_by_package():
    assert read_config('mmdet::retinanet/retinanet_r50_fpn_1x_coco').model.type == 'RetinaNet'
    with pytest.raises(FileNotFoundError, match=r"nearest are \['mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'"):
        read_config('mmdet::retinanet/retinanet_r50_fpn_1x_cocoo.py')
    with pytest.raises(ValueError, match="the package 'mmnothing', which is not installed"):
        read_config('mmnothing::a.py')
    with pytest.raises(FileNotFoundError, match=r'there is no config file a\.py'):
        read_config('a.py')


def test_the_package_offers_them():
    assert resist_mm.to_resist is to_resist
    assert (resist_mm.to_local_sgd, resist_mm.to_ddp) == (to_local_sgd, to_ddp)
