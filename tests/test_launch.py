"""Starting the process group, and finding a missing data set."""

from __future__ import annotations

import pytest
import torch
from mmengine.config import Config

from resist_mm import launch
from resist_mm.datasets.checks import check_data_sets


@pytest.fixture
def started(monkeypatch):
    """What would be started: the backend, and the GPU of this worker."""
    seen: dict = dict(gpu=None)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: seen.update(gpu=device))

    def init_dist(launcher, **dist_cfg):
        torch.cuda.set_device(int(seen.get('local_rank', 0)))
        seen.update(dist_cfg, launcher=launcher)

    monkeypatch.setattr(launch, 'init_dist', init_dist)
    monkeypatch.setattr(launch, 'set_multi_processing', lambda **kwargs: None)
    return seen


def _config(**options) -> Config:
    return Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='nccl', timeout=60)), **options))


def test_without_gpu_the_workers_use_gloo(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    launch.init_distributed(_config())
    assert started == dict(backend='gloo', timeout=60, launcher='pytorch', gpu=None)


def test_fewer_gpus_than_workers_is_an_error(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    with pytest.raises(ValueError, match=r'4 workers .* 2 GPU.*--cfg-options share_gpu=True'):
        launch.init_distributed(_config())


def test_workers_share_gpus_when_asked(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    started['local_rank'] = 3
    launch.init_distributed(_config(share_gpu=True))
    assert started['backend'] == 'gloo'
    assert started['gpu'] == 1


@pytest.mark.parametrize(('gpus', 'launcher'), [(4, 'pytorch'), (0, 'none')])
def test_otherwise_it_is_left_to_the_runner(monkeypatch, started, gpus, launcher):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    cfg = _config()
    cfg.launcher = launcher
    launch.init_distributed(cfg)
    assert 'backend' not in started


def _data_config(root) -> Config:
    dataset = dict(type='VOCDataset', data_root=str(root), ann_file='VOC2007/ImageSets/Main/trainval.txt')
    return Config(dict(train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[dataset]))))


def test_a_missing_list_of_images_names_key_and_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_data_sets(_data_config(tmp_path), ['train_dataloader'])
    message = str(error.value)
    assert 'train_dataloader.dataset.datasets.0.ann_file' in message
    assert str(tmp_path / 'VOC2007/ImageSets/Main/trainval.txt') in message
    assert 'RESIST_MM_VOC' in message


def test_a_list_of_images_that_is_there_passes(tmp_path):
    (tmp_path / 'VOC2007/ImageSets/Main').mkdir(parents=True)
    (tmp_path / 'VOC2007/ImageSets/Main/trainval.txt').write_text('000001\n')
    check_data_sets(_data_config(tmp_path), ['train_dataloader', 'val_dataloader'])
    check_data_sets(_data_config('s3://bucket'), ['train_dataloader'])


@pytest.mark.parametrize(
    'dataset',
    [
        dict(type='resist_mm.CIFAR10', split='test'),
        dict(type='resist_mm.ImageFolder', split='test'),
        dict(type='resist_mm.ImageNet', split='val'),
        dict(type='resist_mm.ImageNetV2', variant='top-images'),
    ],
)
def test_a_missing_image_set_names_key_and_place(tmp_path, dataset):
    cfg = Config(dict(test_dataloader=dict(dataset={**dataset, 'data_root': str(tmp_path)})))
    with pytest.raises(FileNotFoundError, match=rf'test_dataloader\.dataset: .*{tmp_path}'):
        check_data_sets(cfg, ['test_dataloader'])
    for place in ('test', 'val', 'imagenetv2-top-images-format-val'):
        (tmp_path / place).mkdir()
    check_data_sets(cfg, ['test_dataloader'])


def test_a_set_that_is_to_be_downloaded_need_not_be_there(tmp_path):
    dataset = dict(type='resist_mm.CIFAR100', data_root=str(tmp_path), download=True)
    check_data_sets(Config(dict(train_dataloader=dict(dataset=dataset))), ['train_dataloader'])


def test_a_protocol_without_its_wrapper():
    cfg = Config(dict(launcher='pytorch', custom_hooks=[dict(type='resist_mm.ResISTHook')]))
    with pytest.raises(ValueError, match=r"model_wrapper_cfg = dict\(type='resist_mm.LocalModel'\)"):
        launch.check_wrapper(cfg)
    cfg.model_wrapper_cfg = dict(type='resist_mm.LocalModel')
    launch.check_wrapper(cfg)
    launch.check_wrapper(Config(dict(launcher='pytorch', custom_hooks=[dict(type='EMAHook')])))


@pytest.mark.parametrize(
    ('environment', 'speaks'),
    [
        (dict(), True),
        (dict(RANK='2', LOCAL_RANK='0'), True),
        (dict(RANK='3', LOCAL_RANK='1'), False),
        (dict(SLURM_PROCID='3', SLURM_LOCALID='1', LOCAL_RANK='0'), False),
        (dict(SLURM_PROCID='2', SLURM_LOCALID='0', LOCAL_RANK='0'), True),
        (dict(OMPI_COMM_WORLD_LOCAL_RANK='1', LOCAL_RANK='0'), False),
    ],
)
def test_an_error_is_said_once_on_each_machine(monkeypatch, environment, speaks):
    for name in ('RANK', 'LOCAL_RANK', 'SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK'):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    waited = []
    monkeypatch.setattr(launch.time, 'sleep', waited.append)
    with pytest.raises(SystemExit) as ended:
        launch.end_with(FileNotFoundError('no such set'))
    assert ended.value.code == ('FileNotFoundError: no such set' if speaks else 1)
    assert bool(waited) != speaks
