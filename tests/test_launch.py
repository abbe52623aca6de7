"""Starting the process group, and finding a missing data set."""

from __future__ import annotations

import warnings
from typing import Any

import mmengine.fileio.file_client
import mmengine.logging
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import FileClient
from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm import launch
from resist_mm.datasets.checks import check_data_sets
from resist_mm.hooks import LocalSGDHook
from resist_mm.launch import ending, process_group
from tests.toy import toy_runner
from tests.workers import run_workers


@pytest.fixture
def started(monkeypatch):
    """What would be started: the backend, and the GPU of this worker."""
    seen: dict = dict(gpu=None)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: seen.update(gpu=device))

    def init_dist(launcher, **dist_cfg):
        torch.cuda.set_device(int(seen.get('local_rank', 0)))
        seen.update(dist_cfg, launcher=launcher)

    monkeypatch.setattr(process_group, 'init_dist', init_dist)
    monkeypatch.setattr(process_group, 'set_multi_processing', lambda **kwargs: None)
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


def _data_config(root, text: str = '') -> Config:
    dataset = dict(type='VOCDataset', data_root=str(root), ann_file='VOC2007/ImageSets/Main/trainval.txt')
    return Config(
        dict(train_dataloader=dict(dataset=dict(type='ConcatDataset', datasets=[dataset]))), cfg_text=text
    )


def test_a_missing_list_of_images_names_key_and_file(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        check_data_sets(_data_config(tmp_path), ['train_dataloader'])
    message = str(error.value)
    assert 'train_dataloader.dataset.datasets.0.ann_file' in message
    assert str(tmp_path / 'VOC2007/ImageSets/Main/trainval.txt') in message
    assert message.endswith('set its location: --cfg-options train_dataloader.dataset.datasets.0.data_root=...')
    with pytest.raises(FileNotFoundError, match='RESIST_MM_VOC=/path/to/VOCdevkit/ in the environment, or --cfg'):
        check_data_sets(_data_config(tmp_path, "root = '{{$RESIST_MM_VOC:data/}}'"), ['train_dataloader'])


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


def _scaled(work_dir: str, rounds: bool, here: bool) -> tuple[float, float, list[str]]:
    """Learning rates at the start of training and in its last iteration, and what is said."""
    log, rates = Log(), Rates()
    runner = toy_runner(
        work_dir,
        [log, rates, *([LocalSGDHook(local_iters=2)] if rounds else [])],
        auto_scale_lr=dict(enable=True, base_batch_size=16),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.08)),
        param_scheduler=dict(type='MultiStepLR', by_epoch=True, milestones=[1], gamma=0.1),
    )
    log.listen(runner)
    if here:
        launch.scale_lr_by_one_worker(runner)
    runner.train()
    return rates.seen[0], rates.seen[-1], log.lines


class Rates(Hook):
    """The learning rate in every iteration."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.seen.append(runner.optim_wrapper.get_lr()['lr'][0])


class Log(Hook):
    """Keeps the messages of the log."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def listen(self, runner: Runner) -> None:
        for level in ('info', 'warning'):
            setattr(runner.logger, level, lambda message, *args: self.lines.append(str(message)))


def _scaled_in_all_ways(work_dir: str) -> list[tuple]:
    return [_scaled(work_dir, rounds, here) for rounds, here in ((True, True), (False, True), (True, False))]


def test_auto_scale_lr_counts_one_worker_where_parameters_are_averaged(tmp_path):
    for in_rounds, without, unprepared in run_workers(_scaled_in_all_ways, 2, str(tmp_path)):
        first, last, lines = in_rounds
        assert (first, last) == (pytest.approx(0.08 * 4 / 16), pytest.approx(0.1 * 0.08 * 4 / 16))
        assert any('scaled by the batch of one worker, not by that of all 2' in line for line in lines)
        assert any('based on batch size of 16 and the current batch size is 4' in line for line in lines)
        assert not any('has scaled the learning rate by the batch of all' in line for line in lines)
        first, last, lines = without
        assert (first, last) == (pytest.approx(0.08 * 8 / 16), pytest.approx(0.1 * 0.08 * 8 / 16))
        assert not any('one worker' in line for line in lines)
        assert any('has scaled the learning rate by the batch of all 2 workers' in line for line in unprepared[2])


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
    monkeypatch.setattr(ending.time, 'sleep', waited.append)
    with pytest.raises(SystemExit) as ended:
        launch.end_with(FileNotFoundError('no such set'))
    assert ended.value.code == ('FileNotFoundError: no such set' if speaks else 1)
    assert bool(waited) != speaks


@pytest.mark.parametrize('timeout', [0, -5, True, None, '10 minutes', float('inf'), float('nan')])
def test_a_timeout_that_is_none(timeout):
    with pytest.raises(ValueError, match=r'env_cfg\.dist_cfg\.timeout must be a positive number of seconds.* 600'):
        launch.check_timeout(Config(dict(env_cfg=dict(dist_cfg=dict(timeout=timeout)))))


@pytest.mark.parametrize(
    'env_cfg', [dict(), dict(env_cfg=dict()), dict(env_cfg=dict(dist_cfg=dict(backend='nccl')))]
)
def test_the_runner_gets_the_default_timeout_too(monkeypatch, started, env_cfg):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setenv('LOCAL_WORLD_SIZE', '4')
    cfg = Config(dict(launcher='pytorch', **env_cfg))
    launch.init_distributed(cfg)
    assert 'launcher' not in started  # left to the Runner
    assert cfg.env_cfg.dist_cfg.timeout == 600
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 0)
    launch.init_distributed(cfg)
    assert started['timeout'] == 600


def test_libraries_are_quiet_about_what_users_cannot_change(monkeypatch):
    said: list[str] = []
    for module in (mmengine.logging, mmengine.fileio.file_client):
        monkeypatch.setattr(module, 'print_log', lambda message, *_, **__: said.append(message))
    with warnings.catch_warnings(record=True) as caught:
        launch.quiet_libraries()
        FileClient.infer_client(uri='some/folder')  # as mmengine's hooks do
        mmengine.logging.print_log('Could not import OneDL. Skipping OneDL datasets.')
        mmengine.logging.print_log('The folder is full')
        warnings.warn('faster_coco_eval is not installed, metrics will not be computed.', stacklevel=1)
        warnings.warn('The disk is full', stacklevel=1)
    assert said == ['The folder is full']
    assert [str(warning.message) for warning in caught] == ['The disk is full']
