"""An EMAHook beside the hook of rounds: the averages are right, travel, and are whole when the model is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.partition import Assignment, PartitionSampler
from tests.test_hooks.reference import simulate_with_average
from tests.test_hooks.test_whole_model import EvaluatedToyModel, ToyMetric
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers

EMA = dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3)


class DoubleData(ToyData):
    """The toy data in float64."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        return image.double(), label


class Recorder(Hook):
    """Keeps the weights at the start, and after every iteration the batch and a running mean."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.batches: list = []
        self.means: list[Tensor] = []
        self.start: dict[str, Tensor] = {}

    def before_train(self, runner: Runner) -> None:
        self.start = {name: p.detach().clone() for name, p in _model(runner).named_parameters()}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append([t.clone() for t in data_batch])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.means.append(_model(runner).backbone.layer1[0].norm1.running_mean.clone())


def _model(runner: Runner) -> Any:
    return getattr(runner.model, 'module', runner.model)


def _ema_hook(runner: Runner) -> EMAHook:
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook))


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def _by_iters(count: int, batch_size: int = 2, data: Any = None, **overrides: Any) -> dict:
    return dict(
        train_cfg=dict(by_epoch=False, max_iters=count),
        train_dataloader=dict(
            batch_size=batch_size,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=data or ToyData(32),
            collate_fn=dict(type='default_collate'),
        ),
        **overrides,
    )


def _train(work_dir: str, hooks: list, **overrides: Any) -> tuple[dict, dict, Recorder]:
    """The state of the model, that of the average, and the recorder."""
    recorder = Recorder()
    runner = toy_runner(work_dir, [*hooks, recorder], **overrides)
    runner.train()
    return _copy(_model(runner).state_dict()), _copy(_ema_hook(runner).ema_model.state_dict()), recorder


def _in_double(work_dir: str, hook: Hook, ema: dict, first: bool) -> tuple[dict, dict, Recorder, int | None]:
    hooks = [dict(ema), hook] if first else [hook, dict(ema)]
    data = DoubleData(12 * dist.get_world_size())
    model = ToyModel().double()
    return *_train(work_dir, hooks, model=model, **_by_iters(6, data=data)), hook.seed


def _exp_momentum(it: int) -> float:
    """Of mmdet's ExpMomentumEMA, which YOLOX and RTMDet use."""
    return (1 - 0.2) * math.exp(-float(1 + it) / 5) + 0.2


EXP = dict(
    type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.2, gamma=5, update_buffers=True, priority=49
)
SWA = dict(type='EMAHook', ema_type='StochasticWeightAverage')
LATE = dict(EMA, begin_iter=4, priority='LOW')
RARE = dict(EMA, interval=2, update_buffers=True)


@pytest.mark.parametrize(
    ('num_workers', 'hook', 'ema', 'first', 'rate'),
    [
        (2, ResISTHook(local_iters=2, min_blocks=3), EXP, True, _exp_momentum),
        (4, ResISTHook(local_iters=2, min_blocks=2, bn='average'), EXP, False, _exp_momentum),
        (3, ResISTHook(local_iters=2, min_blocks=3), SWA, False, lambda it: 1 / (it + 1)),
        (
            2,
            ResISTHook(local_iters=2, momentum_restart_interval=None),
            LATE,
            True,
            lambda it: 0.3 if it > 3 else 1.0,
        ),
        (2, ResISTHook(local_iters=2, min_blocks=2), RARE, True, lambda it: 0.0 if it % 2 else 0.3),
        (3, LocalSGDHook(local_iters=2), EMA, False, lambda it: 0.3),
        (2, LocalSGDHook(local_iters=2, bn='average'), EXP, True, _exp_momentum),
    ],
    ids=['exp', 'exp-4', 'swa', 'late', 'rare', 'local-sgd', 'local-sgd-exp'],
)
def test_averages_equal_a_simulation_in_one_process(tmp_path, num_workers, hook, ema, first, rate):
    results = run_workers(_in_double, num_workers, str(tmp_path), hook, ema, first)
    trained, averaged, recorder, seed = results[0]
    sampler = PartitionSampler(6, num_workers, getattr(hook.protocol, 'min_blocks', None), seed)
    everything = Assignment.full(num_workers, 6)
    assignments = [sampler.sample(i) if isinstance(hook, ResISTHook) else everything for i in range(3)]
    weights, averages = simulate_with_average(
        _copy(recorder.start),
        [recorder.batches for _, _, recorder, _ in results],
        assignments,
        local_iters=2,
        lr=0.05,
        momentum=0.9,
        keep_momentum=hook.momentum_restart_interval is None,
        rate=lambda it: rate(it) if it else 1.0,  # an average begins with a copy
    )
    for name in weights:
        torch.testing.assert_close(trained[name], weights[name], rtol=0, atol=1e-12)
        torch.testing.assert_close(averaged[f'module.{name}'], averages[name], rtol=0, atol=1e-12)
    assert any((averages[name] - weights[name]).abs().max() > 1e-3 for name in weights), 'nothing was averaged'
    assert averaged['steps'] == (6 if 'begin_iter' not in ema else 3)
    scale = 'backbone.layer3.scale'
    assert averaged[f'module.{scale}'] == trained[scale] != (1 if isinstance(hook, ResISTHook) else 0)
    for worker, (_, of_worker, _, _) in enumerate(results):
        for name in averaged:
            assert torch.equal(of_worker[name], averaged[name]), f'worker {worker} differs in {name}'


NORM = 'backbone.layer1.0.norm1'


def _statistics(work_dir: str, bn: str, update_buffers: bool) -> tuple[dict, dict, Recorder]:
    hook = ResISTHook(local_iters=2, min_blocks=2, bn=bn, bn_batches=2)
    ema = dict(EMA, update_buffers=update_buffers)
    return _train(work_dir, [hook, ema], model=ToyModel().double(), **_by_iters(6, data=DoubleData(32)))


@pytest.mark.parametrize('bn', ['recalibrate', 'average'])
def test_statistics_of_an_average_without_its_own_are_the_model_s(tmp_path, bn):
    for trained, averaged, _ in run_workers(_statistics, 2, str(tmp_path), bn, False):
        for name in (name for name in trained if 'running' in name or name.endswith('scale')):
            assert torch.equal(averaged[f'module.{name}'], trained[name]), name


def test_statistics_of_an_average_are_recalibrated_with_its_weights(tmp_path):
    results = run_workers(_statistics, 3, str(tmp_path), 'recalibrate', True)
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


def test_statistics_of_an_average_travel_if_the_model_s_do(tmp_path):
    results = run_workers(_statistics, 3, str(tmp_path), 'average', True)
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
        averaged, engine = _ema_hook(runner).ema_model, self.hook.engine
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
    _, averaged, _ = _train(work_dir, [dict(EXP), hook, watcher], **_by_iters(7))
    return watcher.seen, averaged


@pytest.mark.parametrize('codec', [None, dict(type='topk', share=0.25, error_feedback=True)])
def test_the_average_of_a_dropped_block_has_no_storage(tmp_path, codec):
    results = run_workers(_watched, 3, str(tmp_path), codec)
    for seen, averaged in results:
        assert len(seen) == 7
        for dropped, found, held in seen:
            assert dropped == 4
            assert found == held
        for name in averaged:
            assert torch.equal(averaged[name], results[0][1][name]), name


def _orders(work_dir: str) -> list[dict]:
    found = []
    for priority in (49, 'NORMAL', 'LOW'):
        for first in (True, False):
            hook, ema = ResISTHook(local_iters=2, min_blocks=2, bn_batches=2), dict(EMA, priority=priority)
            runner = toy_runner(work_dir, [ema, hook] if first else [hook, ema], **_by_iters(5))
            runner.train()
            order = [h for h in runner.hooks if h is hook or isinstance(h, EMAHook)]
            assert isinstance(order[0], EMAHook)
            assert len(runner.hooks) == len(set(map(id, runner.hooks)))
            found.append(_copy(_ema_hook(runner).ema_model.state_dict()))
    return found


def test_the_order_of_hooks_does_not_matter(tmp_path):
    for states in run_workers(_orders, 2, str(tmp_path)):
        for state in states[1:]:
            for name in state:
                assert torch.equal(state[name], states[0][name]), name


def _evaluation(metric: ToyMetric) -> dict:
    return dict(
        val_dataloader=dict(
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=ToyData(16),
            collate_fn=dict(type='default_collate'),
        ),
        val_cfg=dict(),
        val_evaluator=Evaluator([metric]),
    )


def _validated(work_dir: str, ema: dict | None, bn: str) -> tuple[dict, Tensor]:
    metric = ToyMetric()
    hook = ResISTHook(local_iters=3, min_blocks=2, momentum_restart_interval=None, bn=bn)
    runner = toy_runner(
        work_dir,
        [hook, *([dict(ema)] if ema else [])],
        model=EvaluatedToyModel(),
        train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')),
        **_evaluation(metric),
    )
    runner.train()
    return _copy(_model(runner).state_dict()), metric.logits


def _with_and_without(work_dir: str, ema: dict, bn: str) -> tuple:
    for name in ('with', 'without'):
        Path(work_dir, name).mkdir(exist_ok=True)
    return _validated(f'{work_dir}/with', ema, bn), _validated(f'{work_dir}/without', None, bn)


@pytest.mark.parametrize(('ema', 'bn'), [(EMA, 'recalibrate'), (EXP, 'recalibrate'), (EXP, 'average')])
def test_the_average_is_validated_and_saved_and_training_does_not_notice(tmp_path, ema, bn):
    results = run_workers(_with_and_without, 2, str(tmp_path), ema, bn)
    checkpoint = torch.load(tmp_path / 'with/epoch_3.pth', map_location='cpu', weights_only=False)
    for (trained, _), (undisturbed, _) in results:
        for name in trained:  # the average changes nothing of what is trained
            assert torch.equal(trained[name], undisturbed[name]), name
            assert torch.equal(trained[name], checkpoint['ema_state_dict'][f'module.{name}']), name
    (_, logits), (_, without_average) = results[0]  # worker 0 collects them
    assert not torch.equal(logits, without_average)
    # mmengine saves the average as the model, to be deployed, and the model beside it
    deployed = EvaluatedToyModel()
    deployed.load_state_dict(checkpoint['state_dict'])
    assert torch.equal(_logits(deployed), logits)
    assert list(tmp_path.glob('with/best_score_*.pth'))


@torch.no_grad()
def _logits(model: ToyModel) -> Tensor:
    data = ToyData(16)
    images = sorted(data.images, key=lambda image: tuple(image.flatten().tolist()))
    model.eval()
    # in batches of four as they were validated: other sizes may sum up in another order
    of_image = {}
    for worker in range(2):
        mine = data.images[worker::2]
        for batch in mine.split(4):
            logits = model(batch, None)
            of_image |= {tuple(i.flatten().tolist()): out for i, out in zip(batch, logits, strict=True)}
    return torch.stack([of_image[tuple(image.flatten().tolist())] for image in images])


def _resumable(work_dir: str, hook: Hook, ema: dict, **overrides: Any) -> tuple[dict, dict]:
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=4)
    hooks = dict(checkpoint=checkpoint)
    trained, averaged, _ = _train(work_dir, [hook, dict(ema)], **_by_iters(8, default_hooks=hooks, **overrides))
    return trained, averaged


@pytest.mark.parametrize(
    ('hook', 'ema'),
    [
        (ResISTHook(local_iters=3, min_blocks=2, bn='average'), EXP),
        (ResISTHook(local_iters=3, min_blocks=2, bn_batches=4), EXP),
        (ResISTHook(local_iters=3, min_blocks=2, bn_batches=4), dict(EMA, begin_iter=6)),
        (LocalSGDHook(local_iters=3, bn_batches=4), SWA),
    ],
)
def test_a_resumed_run_ends_where_the_undisturbed_one_did(tmp_path, hook, ema):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir(), second.mkdir()
    undisturbed = run_workers(_resumable, 2, str(first), hook, ema)
    half = dict(load_from=str(first / 'iter_4.pth'), resume=True)
    for resumed in run_workers(_resume, 2, str(second), hook, ema, half):
        for state, expected in zip(resumed, undisturbed[0], strict=True):
            for name in state:
                if not name.endswith('num_batches_tracked'):
                    assert torch.equal(state[name], expected[name]), name


def _resume(work_dir: str, hook: Hook, ema: dict, half: dict) -> tuple[dict, dict]:
    return _resumable(work_dir, hook, ema, **half)


def test_a_run_resumes_with_another_number_of_workers(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir(), second.mkdir()
    hook = ResISTHook(local_iters=3, min_blocks=2)
    run_workers(_resumable, 2, str(first), hook, EXP)
    half = dict(load_from=str(first / 'iter_4.pth'), resume=True)
    results = run_workers(_resume, 3, str(second), hook, EXP, half)
    for trained, averaged in results:
        assert averaged['module.backbone.layer3.scale'] == trained['backbone.layer3.scale'] == pytest.approx(1 / 3)
        for name in averaged:
            assert torch.equal(averaged[name], results[0][1][name]), name
