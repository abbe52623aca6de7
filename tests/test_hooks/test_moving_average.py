"""An EMAHook beside the hook of rounds: averages and their statistics are right, and live with their blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.hooks import LocalSGDHook, ResISTHook, RoundHook
from resist_mm.partition import Assignment, PartitionSampler
from tests.test_hooks.averages import (
    EMA,
    EXP,
    SWA,
    DoubleData,
    Recorder,
    by_iters,
    copy_of,
    ema_hook_of,
    run_all,
    train,
)
from tests.test_hooks.reference import simulate_with_average
from tests.toy import ToyModel


class Case(NamedTuple):
    """A run of three rounds of two iterations.

    Attributes:
        workers: Their number.
        hook: That of the rounds.
        ema: The config of the average.
        first: Whether the average is registered before the rounds.
        rate: How much the weights after an iteration, counted from 0, count in the average.
        steps: How often the average is updated.
        overrides: Of the Runner.
    """

    workers: int
    hook: RoundHook
    ema: dict
    first: bool
    rate: Callable[[int], float]
    steps: int = 6
    overrides: dict = {}


def _exp_momentum(it: int) -> float:
    return (1 - 0.2) * math.exp(-float(1 + it) / 5) + 0.2


BY_EPOCH = dict(  # of two iterations
    train_cfg=dict(by_epoch=True, max_epochs=3),
    train_dataloader=dict(
        batch_size=2,
        sampler=dict(type='DefaultSampler', shuffle=True),
        dataset=DoubleData(8),
        collate_fn=dict(type='default_collate'),
    ),
)
CASES = dict(
    exp=Case(2, ResISTHook(local_iters=2, min_blocks=3), EXP, True, _exp_momentum),
    exp_4=Case(4, ResISTHook(local_iters=2, min_blocks=2, bn='average'), EXP, False, _exp_momentum),
    swa=Case(3, ResISTHook(local_iters=2, min_blocks=3), SWA, False, lambda it: 1 / (it + 1)),
    begin_iter=Case(
        2,
        ResISTHook(local_iters=2, momentum_restart_interval=None),
        dict(EMA, begin_iter=4, priority='LOW'),
        True,
        lambda it: 0.3 if it > 3 else 1.0,
        steps=3,
    ),
    begin_epoch=Case(
        2,
        ResISTHook(local_iters=2, min_blocks=2),
        dict(EMA, begin_epoch=2),
        False,
        lambda it: 0.3 if it > 2 else 1.0,
        steps=4,
        overrides=BY_EPOCH,
    ),
    interval=Case(
        2,
        ResISTHook(local_iters=2, min_blocks=2),
        dict(EMA, interval=2, update_buffers=True),
        True,
        lambda it: 0.0 if it % 2 else 0.3,
    ),
    local_sgd=Case(3, LocalSGDHook(local_iters=2), EMA, False, lambda it: 0.3),
    local_sgd_exp=Case(2, LocalSGDHook(local_iters=2, bn='average'), EXP, True, _exp_momentum),
)


def _in_double(
    work_dir: str, hook: RoundHook, ema: dict, first: bool, overrides: dict
) -> tuple[dict, dict, Recorder, int | None]:
    hooks = [dict(ema), hook] if first else [hook, dict(ema)]
    by_default = by_iters(6, data=DoubleData(12 * dist.get_world_size()))
    return *train(work_dir, hooks, model=ToyModel().double(), **(overrides or by_default)), hook.seed


@pytest.fixture(scope='module')
def trained(tmp_path_factory) -> dict[str, list]:
    """What the workers of every case return."""
    root = tmp_path_factory.mktemp('averages')
    results: dict[str, list] = {}
    for workers in sorted({case.workers for case in CASES.values()}):
        cases = {name: case for name, case in CASES.items() if case.workers == workers}
        calls = [(_in_double, (str(root / n), c.hook, c.ema, c.first, c.overrides)) for n, c in cases.items()]
        results |= dict(zip(cases, run_all(workers, calls), strict=True))
    return results


@pytest.mark.parametrize('name', CASES)
def test_averages_equal_a_simulation_in_one_process(trained, name):
    case, results = CASES[name], trained[name]
    weights, averaged, recorder, seed = results[0]
    sampler = PartitionSampler(6, case.workers, getattr(case.hook.protocol, 'min_blocks', None), seed)
    everything = Assignment.full(case.workers, 6)
    is_resist = isinstance(case.hook, ResISTHook)
    expected, averages = simulate_with_average(
        copy_of(recorder.start),
        [recorder.batches for _, _, recorder, _ in results],
        [sampler.sample(i) if is_resist else everything for i in range(3)],
        local_iters=2,
        lr=0.05,
        momentum=0.9,
        keep_momentum=case.hook.momentum_restart_interval is None,
        rate=lambda it: case.rate(it) if it else 1.0,  # an average begins with a copy
    )
    for key in expected:
        torch.testing.assert_close(weights[key], expected[key], rtol=0, atol=1e-12)
        torch.testing.assert_close(averaged[f'module.{key}'], averages[key], rtol=0, atol=1e-12)
    assert any((averages[key] - expected[key]).abs().max() > 1e-3 for key in expected), 'nothing was averaged'
    assert averaged['steps'] == case.steps
    scale = 'backbone.layer3.scale'
    assert averaged[f'module.{scale}'] == weights[scale]
    assert (weights[scale] < 1) == is_resist
    for worker, (_, of_worker, _, _) in enumerate(results):
        for key in averaged:
            assert torch.equal(of_worker[key], averaged[key]), f'worker {worker} differs in {key}'


NORM = 'backbone.layer1.0.norm1'


def _statistics(work_dir: str, bn: str, update_buffers: bool) -> tuple[dict, dict, Recorder]:
    hook = ResISTHook(local_iters=2, min_blocks=2, bn=bn, bn_batches=2)
    ema = dict(EMA, update_buffers=update_buffers)
    return train(work_dir, [hook, ema], model=ToyModel().double(), **by_iters(6, data=DoubleData(32)))


@pytest.fixture(scope='module')
def with_statistics(tmp_path_factory) -> dict[tuple[str, bool], list]:
    """What three workers return, by ``bn`` and ``update_buffers``."""
    root = tmp_path_factory.mktemp('statistics')
    kinds = [(bn, own) for bn in ('recalibrate', 'average') for own in (False, True)]
    calls = [(_statistics, (f'{root}/{bn}{own}', bn, own)) for bn, own in kinds]
    return dict(zip(kinds, run_all(3, calls), strict=True))


@pytest.mark.parametrize('bn', ['recalibrate', 'average'])
def test_statistics_of_an_average_without_its_own_are_the_model_s(with_statistics, bn):
    for trained, averaged, _ in with_statistics[bn, False]:
        for name in (name for name in trained if 'running' in name or name.endswith('scale')):
            assert torch.equal(averaged[f'module.{name}'], trained[name]), name


def test_statistics_of_an_average_are_recalibrated_with_its_weights(with_statistics):
    results = with_statistics['recalibrate', True]
    averaged = results[0][1]
    outs = [
        F.conv2d(images, averaged['module.backbone.stem.0.weight'], padding=1)
        for _, _, recorder in results
        for images, _ in recorder.batches[-2:]
    ]
    means = torch.stack([out.mean((0, 2, 3)) for out in outs])
    variances = torch.stack([out.var((0, 2, 3)) for out in outs])
    for key, expected in (('running_mean', means.mean(0)), ('running_var', variances.mean(0))):
        torch.testing.assert_close(averaged[f'module.{NORM}.{key}'], expected, rtol=0, atol=1e-12)
        assert not torch.allclose(results[0][0][f'{NORM}.{key}'], expected), 'the weights are too alike to tell'


def test_statistics_of_an_average_travel_if_the_model_s_do(with_statistics):
    results = with_statistics['average', True]
    seen = torch.stack([torch.stack(recorder.means) for _, _, recorder in results])  # (worker, iteration, channel)
    average = seen[:, 0]
    for it in range(1, 6):
        average = average + 0.3 * (seen[:, it] - average)
        if it % 2:
            average = average.mean(0).expand_as(average)
    for _, averaged, _ in results:
        torch.testing.assert_close(averaged[f'module.{NORM}.running_mean'], average[0], rtol=0, atol=1e-12)
        for name in averaged:
            assert torch.equal(averaged[name], results[0][1][name]), name


class Watcher(Hook):
    """Looks at the average of every block after every iteration: whether it is there, and its size in memory."""

    priority = 'LOWEST'

    def __init__(self, hook: Any) -> None:
        self.hook = hook
        self.seen: list[tuple[int, int, int]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        averaged, engine = ema_hook_of(runner).ema_model, self.hook.engine
        names = {p: name for name, p in engine.parts.model.named_parameters()}
        shadows = dict(averaged.module.named_parameters())
        held = 0
        for part in engine.parts.all:
            held += part.nbytes * part.held
            for p, size, _ in part.flat.layouts():
                shadow = shadows[names[p]]
                assert shadow.numel() == (size.numel() if part.held else 0)
                assert averaged.avg_parameters[names[p]].data_ptr() == shadow.data_ptr()
        dropped = sum(not part.held for part in engine.parts.all)
        tensors = [*shadows.values(), *(averaged.avg_parameters[name] for name in shadows)]
        storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors if t.numel()}
        self.seen.append((dropped, sum(storages.values()), held))


def _watched(work_dir: str, codec: dict | None) -> tuple[list, dict]:
    hook = ResISTHook(local_iters=2, min_blocks=2, codec=codec)
    watcher = Watcher(hook)
    _, averaged, _ = train(work_dir, [dict(EXP), hook, watcher], **by_iters(7))
    return watcher.seen, averaged


def test_the_average_of_a_dropped_block_has_no_storage(tmp_path):
    codecs = (None, dict(type='topk', share=0.25, error_feedback=True))
    for results in run_all(3, [(_watched, (str(tmp_path / str(i)), codec)) for i, codec in enumerate(codecs)]):
        for seen, averaged in results:
            assert len(seen) == 7
            for dropped, found, held in seen:
                assert dropped == 4
                assert found == held
            for name in averaged:
                assert torch.equal(averaged[name], results[0][1][name]), name
