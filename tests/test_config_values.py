"""Wrong numbers in a config are errors that name their key, before anything is built."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmengine.config import Config

from resist_mm.config_values import check_values
from tests.test_tools.commands import ROOT, start_tool

GOOD = dict(
    train_cfg=dict(type='IterBasedTrainLoop', max_iters=10, val_interval=5),
    train_dataloader=dict(batch_size=2, num_workers=0),
    val_dataloader=None,
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)),
    default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=dict(interval=-1), timer=None),
    custom_hooks=[dict(type='resist_mm.ResISTHook', local_iters=5), dict(type='SomeHook', interval=2)],
)
COUNTS = ('train_cfg.max_iters', 'train_cfg.val_interval', 'train_dataloader.batch_size')
INTERVALS = ('default_hooks.logger.interval', 'default_hooks.checkpoint.interval', 'custom_hooks.1.interval')

no_number = st.one_of(st.text(max_size=3), st.booleans(), st.lists(st.integers(), max_size=2))
no_count = st.one_of(
    no_number, st.integers(max_value=0), st.floats().filter(lambda value: not value.is_integer()), st.none()
)


def with_value(key: str, value: Any) -> Config:
    cfg = copy.deepcopy(GOOD)
    *way, last = key.split('.')
    node: Any = cfg
    for step in way:
        node = node[int(step) if step.isdigit() else step]
    node[last] = value
    return Config(cfg)


def refuses(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f'^{re.escape(key)} must be .*, got {re.escape(repr(value))}$'):
        check_values(with_value(key, value))


def test_good_ones_pass():
    check_values(Config(GOOD))
    check_values(Config())


@given(key=st.sampled_from(COUNTS), value=no_count.filter(lambda value: value is not None))
def test_counts(key: str, value: Any):
    refuses(key, value)


@given(key=st.sampled_from(INTERVALS), value=no_count.filter(lambda value: value != -1 or value is True))
def test_intervals(key: str, value: Any):
    refuses(key, value)


@given(value=st.one_of(no_number, st.floats(max_value=-1e-9), st.just(float('inf')), st.none()))
def test_rates(value: Any):
    refuses('optim_wrapper.optimizer.lr', value)


def test_several_optimizers():
    wrapper = dict(generator=GOOD['optim_wrapper'], critic=dict(optimizer=dict(type='SGD', lr='abc')))
    with pytest.raises(ValueError, match=r"^optim_wrapper.critic.optimizer.lr must be .*, got 'abc'$"):
        check_values(Config(dict(optim_wrapper=wrapper)))


@pytest.mark.parametrize('path', sorted((ROOT / 'configs').rglob('*.py')), ids=lambda path: path.stem)
def test_configs_of_this_project_pass(path):
    cfg = Config.fromfile(path)
    if not path.name.startswith('custom_'):  # they refer to what a user's file sets: tests/test_own_data.py
        check_values(cfg)


def test_the_command_says_it_in_one_line():
    config = 'configs/quickstart/yolo_resist_shapes.py'
    result = start_tool('train.py', config, '--cfg-options', 'optim_wrapper.optimizer.lr=abc')
    assert result.returncode == 1
    line = "ValueError: optim_wrapper.optimizer.lr must be a finite number of at least 0, got 'abc'"
    assert result.stdout.strip().splitlines()[-1] == line
