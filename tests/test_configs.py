"""Every config is built, trained for two iterations and tested, also with the changes of the paper's trainings.

The data are generated, in the real layout.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from resist_mm.analysis.paper.trainings import TRAININGS, training_of
from resist_mm.analysis.runs import read_run
from resist_mm.datasets import make_shapes_voc
from tests import generated_sets
from tests.toy import ToyRunner
from tests.workers import run_workers

ROOT = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(
    path.relative_to(ROOT).as_posix()
    for path in ROOT.rglob('*.py')
    if '_base_' not in path.relative_to(ROOT).parts
)
CHANGED = [name for name, training in TRAININGS.items() if training.options]
BASE_CHANNELS = 4


def load(config: str) -> Config:
    """Read a config file, or the config of a training of the paper by its name."""
    if config not in TRAININGS:
        return Config.fromfile(ROOT / config)
    cfg = Config.fromfile(ROOT / TRAININGS[config].config)
    cfg.merge_from_dict(dict(TRAININGS[config].options))
    return cfg


@pytest.fixture(scope='module')
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment variables that name the generated sets."""
    root = tmp_path_factory.mktemp('sets')
    make_shapes_voc(root / 'shapes', train=4, test=2, size=64)
    return {
        'RESIST_MM_CIFAR10': str(generated_sets.make_cifar10(root / 'cifar10')),
        'RESIST_MM_CIFAR100': str(generated_sets.make_cifar100(root / 'cifar100')),
        'RESIST_MM_IMAGENET': str(generated_sets.make_imagenet(root / 'imagenet')),
        'RESIST_MM_IMAGENETV2': str(generated_sets.make_imagenetv2(root / 'imagenetv2')),
        'RESIST_MM_SHAPES': f'{root}/shapes/',
        'RESIST_MM_RARE_SHAPES': f'{root}/shapes/',
        'RESIST_MM_VOC': f'{generated_sets.make_voc(root / "voc")}/',
    }


@pytest.mark.parametrize('config', CONFIGS + CHANGED)
def test_two_iterations(config: str, sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name, place in sets.items():
        monkeypatch.setenv(name, place)
    generated_sets.without_checksums(monkeypatch)
    # formats the whole config, twice, which takes longer than all else together
    monkeypatch.setattr(Config, 'pretty_text', property(lambda self: ''))
    cfg = load(config)
    if any(name in str(cfg.model) for name in ('mmdet', 'Det', 'CIFARResNet')):
        pytest.importorskip('mmdet')
    shrink(cfg)
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    cfg.experiment_name = f'{Path(config).stem}_{tmp_path.name}'
    runner = ToyRunner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 2
    metrics = runner.test()
    assert metrics and all(value == value for value in metrics.values())
    assert list(tmp_path.glob('*.pth'))


@pytest.mark.parametrize(
    'config',
    [
        'preact-resnet101_resist-top25_4xb128-160e_cifar100',  # counts epochs
        'preact-resnet-small_resist_4xb32-1200i_cifar10',  # counts iterations
    ],
)
def test_two_workers_and_what_they_leave_behind(config, sets, tmp_path):
    of_workers = run_workers(_train_a_config, 2, config, sets, str(tmp_path))
    crops = [random_states for random_states, _ in of_workers]
    assert crops[0] and not set(crops[0]) & set(crops[1]), 'the workers crop and flip alike'

    run = read_run(tmp_path)
    training = TRAININGS[config]
    assert (run.config, run.num_workers) == (Path(training.config).stem, 2)
    assert (run.length, run.finished) == (2, True)
    assert training_of(run.config, training.workers, Config.fromfile(tmp_path / f'{run.config}.py')) is training
    assert list(run.rounds) == [0, 1]
    assert run.rounds_before == {1: 1, 2: 2}
    logged = [run.validations[step]['test/loss'] for step in (1, 2)]
    assert logged[0] != logged[1]
    assert logged[1] == pytest.approx(of_workers[0][1]['test/loss']), 'not the loss of the test set alone'


def _train_a_config(config: str, sets: dict[str, str], work_dir: str) -> tuple[list[str], dict]:
    os.environ.update(sets)
    with pytest.MonkeyPatch.context() as monkeypatch:
        generated_sets.without_checksums(monkeypatch)
        cfg = load(config)
        shrink(cfg)
        if 'max_epochs' in cfg.train_cfg:
            cfg.train_cfg.max_epochs = 2
        else:
            cfg.train_cfg.val_interval = 1
        cfg.custom_hooks[0].bn_batches = 1
        cfg.work_dir, cfg.launcher = work_dir, 'pytorch'  # the process group is there already
        runner = Runner.from_cfg(cfg)
        random_states: list[str] = []
        crop = runner.model.module.data_preprocessor.train_pipeline[0]
        crop.register_forward_pre_hook(lambda *_: random_states.append(str(torch.get_rng_state().tolist())))
        runner.train()
        return random_states, runner.test()


@pytest.mark.parametrize('config', [name for name in CONFIGS + CHANGED if re.search(r'_\dxb\d+-\d+[ei]_', name)])
def test_a_config_does_what_its_name_says(config: str):
    cfg = load(config)
    name = re.search(r'_(?P<workers>\d)xb(?P<batch>\d+)-(?P<length>\d+)(?P<unit>[ei])_(?P<data>\w+)', config)
    assert name is not None
    workers, batch, length = (int(name[key]) for key in ('workers', 'batch', 'length'))
    assert cfg.train_dataloader.batch_size == batch
    classes = dict(cifar10=10, cifar100=100, in1k=1000)[name['data']]
    assert cfg.model.num_classes == classes
    if name['unit'] == 'i':
        iters = cfg.train_cfg.max_iters
        assert iters == length
    elif 'max_epochs' in cfg.train_cfg:
        assert cfg.train_cfg.max_epochs == length
    else:  # epochs counted over all workers, in whole rounds: 196 and 98 iterations with two and four workers
        assert cfg.train_cfg.max_iters == pytest.approx(length * 50_000 / (workers * batch), rel=6e-3)
    milestones = [scheduler.milestones for scheduler in cfg.param_scheduler if 'milestones' in scheduler]
    whole = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.max_iters
    shares = (1 / 3, 2 / 3) if classes == 1000 else (1 / 2, 3 / 4)
    for found in milestones:
        assert found == pytest.approx([whole * share for share in shares], rel=1e-3)
    hooks = cfg.get('custom_hooks', [])
    protocol = re.search('_(resist|local-sgd)', config)
    types = dict(resist='resist_mm.ResISTHook') | {'local-sgd': 'resist_mm.LocalSGDHook'}
    assert [hook.type for hook in hooks] == ([types[protocol[1]]] if protocol else [])
    if local_iters := re.search(r'-l(\d+)_', config):
        assert hooks[0].local_iters == int(local_iters[1])
    if bits := re.search(r'-(\d)bit_', config):
        assert hooks[0].codec == dict(type='quantize', bits=int(bits[1]))
    if share := re.search(r'-top(\d+)_', config):
        assert (hooks[0].codec.type, 100 * hooks[0].codec.share) == ('topk', int(share[1]))


def test_cifar_networks_of_the_paper_begin_with_the_authors_weights_and_small_ones_can():
    for config in (name for name in CONFIGS if name.startswith('cifar/')):
        cfg = Config.fromfile(ROOT / config)
        small = config.startswith('cifar/small/')
        assert cfg.model.backbone.get('init', 'kaiming') == ('kaiming' if small else 'torch'), config
        cfg.merge_from_dict({'model.backbone.init': 'torch'})  # as --cfg-options does
        assert cfg.model.backbone.init == 'torch'


def shrink(cfg: Config) -> None:
    """Make networks and images tiny and training two iterations long; change nothing else."""
    _shrink_model(cfg.model)
    cfg.optim_wrapper.optimizer.lr *= 0.01  # BatchNorm over two tiny images makes gradients huge
    _shrink_loader(cfg.train_dataloader, num_images=4, batch_size=2)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        _shrink_loader(loader, num_images=2, batch_size=2)
    for hook in cfg.get('custom_hooks', []):
        hook.local_iters = 1
        for key, most in dict(min_blocks=2, warmup_rounds=1).items():
            if hook.get(key):
                hook[key] = min(hook[key], most)
    checkpoint = cfg.default_hooks.checkpoint
    if 'max_iters' in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=2, val_interval=2)
        checkpoint.interval = 2
    else:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        checkpoint.interval = 1


def _shrink_model(model: Any) -> None:
    backbone = model.get('backbone', {})
    kind = backbone.type.split('.')[-1]
    backbone.base_channels = BASE_CHANNELS
    backbone.pop('init_cfg', None)
    if kind == 'PartitionableResNet':
        backbone.depth = 50
    else:
        backbone.stage_blocks = (2, 2, 3, 2)
    widths = [BASE_CHANNELS * 2**i * (4 if kind == 'PartitionableResNet' else 1) for i in range(4)]
    if 'neck' in model:
        model.neck.in_channels = widths
    elif 'bbox_head' in model:
        model.bbox_head.in_channels = widths[-1]


def _shrink_loader(loader: Any, num_images: int, batch_size: int) -> None:
    loader.batch_size, loader.num_workers, loader.persistent_workers = batch_size, 0, False
    datasets = list(_datasets(loader.dataset))
    for dataset in datasets:
        if dataset.type.startswith('resist_mm.'):
            dataset.max_images = num_images
        else:
            dataset.indices = num_images // len(datasets)
            dataset.filter_cfg = None
        for transform in dataset.get('pipeline', ()):
            if transform.get('size', 0) > 64:
                transform.size = 64
            if 'scale' in transform and transform.type == 'Resize':
                transform.scale = (64, 64)


def _datasets(dataset: Any) -> Iterator[Any]:
    if 'times' in dataset:
        dataset.times = 1
    inner = dataset.get('datasets') or ([dataset.dataset] if 'dataset' in dataset else [])
    for child in inner:
        yield from _datasets(child)
    if not inner:
        yield dataset
