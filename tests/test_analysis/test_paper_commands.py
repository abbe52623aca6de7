"""The commands that reproduce the paper, and the trainings behind them."""

from __future__ import annotations

import shlex
import sys
from argparse import ArgumentParser

import pytest
from mmengine.config import Config, DictAction

from resist_mm.analysis.paper import table as paper_table
from resist_mm.analysis.paper.commands import as_options, commands_of
from resist_mm.analysis.paper.results import TABLES
from resist_mm.analysis.paper.trainings import TRAININGS, training_of
from tests.test_tools.commands import ROOT


@pytest.fixture
def printed(monkeypatch, capsys):
    """What the command prints."""

    def run(*args: str) -> str:
        monkeypatch.setattr(sys, 'argv', ['paper_table.py', *args])
        paper_table.main()
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize('name', TRAININGS)
def test_the_command_line_makes_the_config_and_the_config_tells_the_training(name: str):
    training = TRAININGS[name]
    cfg = Config.fromfile(ROOT / 'configs' / training.config, import_custom_modules=False)
    before = cfg.to_dict()
    if training.options:
        parser = ArgumentParser()
        parser.add_argument('--cfg-options', nargs='+', action=DictAction)
        args = parser.parse_args(['--cfg-options', *as_options(training.options)])
        assert args.cfg_options == training.options
        cfg.merge_from_dict(args.cfg_options)
        assert cfg.to_dict() != before
    stem = training.config.split('/')[-1].removesuffix('.py')
    assert training_of(stem, training.workers, cfg) is training
    assert training_of(stem, 3, cfg) is None


def test_separate_tests_have_configs_that_their_options_change():
    for training in TRAININGS.values():
        for test in training.tests:
            cfg = Config.fromfile(ROOT / 'configs' / test.config)
            cfg.merge_from_dict(dict(test.options))
            assert cfg.test_dataloader.dataset.variant in test.folder


def test_every_command_has_a_work_dir_of_its_own():
    commands = [command for training in TRAININGS.values() for command in commands_of(training, 'runs')]
    work_dirs = [command[command.index('--work-dir') + 1] for command in commands]
    assert len(set(work_dirs)) == len(work_dirs)
    for command in commands:
        files = [word for word in command if word.startswith(('configs/', 'tools/'))]
        assert len(files) == 2 and all((ROOT / file).is_file() for file in files)


def test_the_commands_of_a_table(printed):
    lines = printed('--commands', '9', '--runs', 'runs').splitlines()
    assert lines[0] == '# Table 9'
    at = lines.index('# 4 bit, CIFAR-10; in the paper: top-1 76.33')
    assert shlex.split(lines[at + 1]) == [
        'tools/dist_train.sh',
        'configs/cifar/preact-resnet101_resist_4xb128-160e_cifar10.py',
        '4',
        '--work-dir',
        'runs/preact-resnet101_resist-4bit_4xb128-160e_cifar10',
        '--cfg-options',
        'custom_hooks.0.codec.type=quantize',
        'custom_hooks.0.codec.bits=4',
    ]


def test_an_ensemble_is_trained_member_by_member_and_tested(printed):
    commands = [shlex.split(line) for line in printed('--commands', '7').splitlines() if line[:1] not in ('', '#')]
    name = 'work_dirs/preact-resnet32-shallow8_1xb128-20e_cifar10/'
    of_eight = [command for command in commands if command[command.index('--work-dir') + 1].startswith(name)]
    assert [command[-1] for command in of_eight[:-1]] == [f'randomness.seed={seed}' for seed in range(8)]
    assert [word for word in of_eight[-1] if word.endswith('.pth')] == [
        f'{name}{member}/epoch_20.pth' for member in range(8)
    ]


def test_a_training_of_several_tables_is_printed_once(printed):
    out = printed('--commands')
    for name in TRAININGS:
        assert out.count(f'--work-dir work_dirs/{name} ') + out.count(f'--work-dir work_dirs/{name}\n') <= 1
    assert all(f'\n# Table {table}\n' in f'\n{out}' for table in TABLES if table.isdigit())
