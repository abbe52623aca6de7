"""What the tests of moving averages have in common."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor

from tests.toy import ToyData, toy_runner
from tests.workers import run_workers

EMA = dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3)
# of mmdet's YOLOX and RTMDet configs
EXP = dict(
    type='EMAHook', ema_type='mmdet.ExpMomentumEMA', momentum=0.2, gamma=5, update_buffers=True, priority=49
)
SWA = dict(type='EMAHook', ema_type='StochasticWeightAverage')
_RUNS = itertools.count()


def run_all(num_workers: int, calls: list[tuple[Callable, tuple]]) -> list[list]:
    """Call several functions, one after the other, in the same workers; of each call the results by rank."""
    return [list(of_call) for of_call in zip(*run_workers(_call_all, num_workers, calls), strict=True)]


def _call_all(calls: list[tuple[Callable, tuple]]) -> list:
    return [function(*args) for function, args in calls]


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
        self.start = {name: p.detach().clone() for name, p in model_of(runner).named_parameters()}

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append([t.clone() for t in data_batch])

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.means.append(model_of(runner).backbone.layer1[0].norm1.running_mean.clone())


def model_of(runner: Runner) -> Any:
    return getattr(runner.model, 'module', runner.model)


def ema_hook_of(runner: Runner) -> EMAHook:
    return next(hook for hook in runner.hooks if isinstance(hook, EMAHook))


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()}


def by_iters(count: int, batch_size: int = 2, data: Any = None, **overrides: Any) -> dict:
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


def train(work_dir: str, hooks: list, **overrides: Any) -> tuple[dict, dict, Recorder]:
    """The state of the model, that of the average, and the recorder."""
    Path(work_dir).mkdir(parents=True, exist_ok=True)
    recorder = Recorder()
    runner = toy_runner(work_dir, [*hooks, recorder], experiment_name=f'average{next(_RUNS)}', **overrides)
    runner.train()
    return copy_of(model_of(runner).state_dict()), copy_of(ema_hook_of(runner).ema_model.state_dict()), recorder
