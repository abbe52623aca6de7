"""Mistakes on the command line or in the config: one line each. The scripts are run in this process."""

from __future__ import annotations

import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from mmengine.config import Config

from resist_mm.convert import Converted
from tests.test_tools.commands import ROOT


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch):
    """Load a script of tools/ as a module, with a command line."""

    def load(name: str, *words: object) -> ModuleType:
        monkeypatch.setenv('LOCAL_RANK', '0')
        monkeypatch.setattr(sys, 'argv', [name, *map(str, words)])
        spec = spec_from_file_location(f'tools_{name}', ROOT / 'tools' / f'{name}.py')
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        if hasattr(module, 'load_safely'):
            monkeypatch.setattr(module, 'load_safely', lambda trust: None)  # it would outlast the test
        return module

    return load


@pytest.fixture
def config(tmp_path: Path) -> Path:
    backbone = dict(type='resist_mm.PreActResNet', depth=18)
    Config(
        dict(
            model=dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=5),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
            auto_scale_lr=None,
            custom_hooks=[],
        )
    ).dump(tmp_path / 'mine.py')
    return tmp_path / 'mine.py'


def train_config(script, *words: object) -> Converted:
    module = script('train', *words)
    return module.load_config(module.parse_args())


@pytest.mark.parametrize('name', ['train', 'test', 'test_ensemble'])
def test_an_option_that_is_no_pair(script, config: Path, capsys, name: str):
    words = [config] if name == 'train' else [config, config]
    module = script(name, *words, '--cfg-options', 'a=1', 'foo')
    with pytest.raises(SystemExit) as stop:
        getattr(module, 'parse_args', module.main)()
    assert stop.value.code == 2
    assert "--cfg-options takes KEY=VALUE, got 'foo'" in capsys.readouterr().err


@pytest.mark.parametrize('name', ['train', 'test', 'test_ensemble'])
def test_a_config_without_a_model(script, tmp_path: Path, name: str):
    (tmp_path / 'empty.py').write_text('x = 1')
    words = [tmp_path / 'empty.py'] * (1 if name == 'train' else 2)
    with pytest.raises(SystemExit, match=r'^ValueError: .*empty\.py has no model'):
        script(name, *words, '--work-dir', tmp_path).main()


@pytest.mark.parametrize('name', ['test', 'test_ensemble'])
def test_a_config_that_is_not_there(script, config: Path, name: str):
    with pytest.raises(SystemExit, match=r"FileNotFoundError: mmdet has no config 'retinanet/nope\.py'"):
        script(name, 'mmdet::retinanet/nope.py', config).main()


def test_auto_scale_lr_without_a_base(script, config: Path):
    with pytest.raises(ValueError, match='--auto-scale-lr needs auto_scale_lr = dict'):
        train_config(script, config, '--auto-scale-lr')
    config.write_text(
        config.read_text().replace('auto_scale_lr = None', 'auto_scale_lr = dict(base_batch_size=16)')
    )
    assert train_config(script, config, '--auto-scale-lr').cfg.auto_scale_lr.enable


def test_an_item_that_a_list_does_not_have(script, config: Path):
    with pytest.raises(ValueError, match='--cfg-options: Index 0 exceeds the length of list'):
        train_config(script, config, '--cfg-options', 'custom_hooks.0.local_iters=3')


def test_a_checkpoint_that_is_not_there(script, config: Path):
    with pytest.raises(FileNotFoundError, match=r'there is no checkpoint nope\.pth to resume from'):
        train_config(script, config, '--resist', '--resume', 'nope.pth')


def test_a_damaged_checkpoint_to_resume_from_is_a_line(script, config: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    file = config.parent / 'iter_1.pth'
    file.write_text('nothing')
    with pytest.raises(SystemExit, match=r'BrokenCheckpoint: .*iter_1\.pth'):
        script('train', config, '--local-sgd', '--resume', file, '--work-dir', config.parent / 'run').main()
