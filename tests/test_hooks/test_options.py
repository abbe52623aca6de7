"""Options of the hooks, through a Runner with real workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.hooks.cuts import whole_model_iters
from resist_mm.hooks.resumed import ROUND_KEY
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers


class Watcher(Hook):
    """After every iteration: the depth of this worker, whether residual branches are scaled, a running mean."""

    priority = 'LOWEST'

    def __init__(self) -> None:
        self.depths: list[int] = []
        self.scaled: list[bool] = []
        self.means: list[torch.Tensor] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        backbone = runner.model.module.backbone
        self.depths.append(len(backbone.layer3.partitioned_stage.held))
        self.scaled.append(backbone.layer3.partitioned_stage.is_whole)
        self.means.append(backbone.layer1[0].norm1.running_mean.clone())


def _iterations(count: int, **overrides: Any) -> dict:
    return dict(
        train_cfg=dict(by_epoch=False, max_iters=count),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(32),
            collate_fn=dict(type='default_collate'),
        ),
        **overrides,
    )


def _warm_up(work_dir: str) -> tuple:
    hook, watcher = ResISTHook(local_iters=2, min_blocks=2, warmup_rounds=2), Watcher()
    runner = toy_runner(work_dir, [hook, watcher], **_iterations(8))
    runner.train()
    return watcher.depths, watcher.scaled, runner.model.module.state_dict()


def test_warm_up_is_local_sgd_on_the_scaled_whole_model(tmp_path):
    results = run_workers(_warm_up, 3, str(tmp_path))
    for depths, scaled, state in results:
        assert depths == [6, 6, 6, 6, 2, 2, 2, 2]
        assert scaled == [True] * 4 + [False] * 4
        assert state['backbone.layer3.scale'] == pytest.approx(1 / 3)
        for name in state:
            assert torch.equal(state[name], results[0][2][name]), name


def _statistics_interval(work_dir: str) -> list[torch.Tensor]:
    hook, watcher = LocalSGDHook(local_iters=1, bn='average', bn_interval=3), Watcher()
    toy_runner(work_dir, [watcher, hook], **_iterations(5)).train()
    return watcher.means


def test_statistics_travel_every_so_many_rounds(tmp_path):
    first, second = run_workers(_statistics_interval, 2, str(tmp_path))
    # a running mean is 0.9 of the old one and 0.1 of the batch's; if the old ones were equal, the gap between
    # two workers is that of one batch
    gaps = [(a - b).abs().max().item() for a, b in zip(first, second, strict=True)]
    assert all(gaps)
    common = [torch.stack(pair).mean(0) for pair in zip(first, second, strict=True)]
    # iteration 4 begins from the mean of round 3 on both workers
    for mine, theirs in ((first, second), (second, first)):
        batch = (mine[3] - 0.9 * common[2]) / 0.1
        other = (theirs[3] - 0.9 * common[2]) / 0.1
        assert (batch - other).abs().max() == pytest.approx(gaps[3] / 0.1, rel=1e-3)


def _with_codec(work_dir: str) -> tuple[dict, float]:
    hook = ResISTHook(local_iters=2, min_blocks=2, codec=dict(type='quantize', bits=8))
    runner = toy_runner(work_dir, [hook], **_iterations(5))
    runner.train()
    return runner.model.module.state_dict(), runner.message_hub.get_scalar('train/total_mb').data[0][0]


def _without_codec(work_dir: str) -> tuple[dict, float]:
    hook = ResISTHook(local_iters=2, min_blocks=2)
    runner = toy_runner(work_dir, [hook], **_iterations(5))
    runner.train()
    return runner.model.module.state_dict(), runner.message_hub.get_scalar('train/total_mb').data[0][0]


def _both(work_dir: str) -> tuple:
    return _with_codec(work_dir), _without_codec(work_dir)


def test_a_codec_in_the_config_saves_bytes_and_changes_little(tmp_path):
    results = run_workers(_both, 3, str(tmp_path))
    for (coded, coded_mb), (exact, exact_mb) in results:
        assert coded_mb < 0.4 * exact_mb  # a quarter, and norms and biases of this tiny network
        for name in coded:
            assert torch.equal(coded[name], results[0][0][0][name]), name
        weight = 'backbone.layer3.1.conv1.weight'
        assert 0 < (coded[weight] - exact[weight]).abs().max() < 0.1


def _one_worker_never_steps(work_dir: str) -> dict:
    """As with AMP, when the loss scale is still too large on one worker."""
    hook = ResISTHook(local_iters=2, min_blocks=2, momentum_restart_interval=None)
    runner = toy_runner(work_dir, [hook], **_iterations(6))
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    if dist.get_rank() == 1:
        runner.optim_wrapper.optimizer.step = lambda *args, **kwargs: None
    runner.train()
    return runner.model.module.state_dict()


def test_workers_agree_on_momentum_even_if_one_has_none(tmp_path):
    first, second = run_workers(_one_worker_never_steps, 2, str(tmp_path))
    for name in first:
        assert torch.equal(first[name], second[name]), name


def _accumulate(work_dir: str) -> list[bool]:
    pending = []

    class Looks(Hook):
        priority = 'LOWEST'

        def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
            pending.append(any(p.grad is not None for p in runner.model.parameters()))

    optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01), accumulative_counts=4)
    hook = ResISTHook(local_iters=3, min_blocks=2)
    toy_runner(work_dir, [hook, Looks()], **_iterations(6, optim_wrapper=optim_wrapper)).train()
    return pending


def test_accumulated_gradients_do_not_cross_a_round(tmp_path):
    for pending in run_workers(_accumulate, 2, str(tmp_path)):
        assert pending == [False, True, True, False, False, True]


def _half_resumed(work_dir: str) -> str:
    runner = toy_runner(work_dir, [ResISTHook(local_iters=2)])
    if dist.get_rank() == 1:
        runner.message_hub.update_info(ROUND_KEY, 7)
    try:
        runner.train()
    except RuntimeError as error:
        return str(error)
    return 'trained'


def test_a_job_of_which_one_worker_did_not_resume_stops(tmp_path):
    for error in run_workers(_half_resumed, 2, str(tmp_path)):
        assert 'disagree on the index of the round to begin with (worker 0: 0, worker 1: 7)' in error


def test_local_sgd_takes_a_frozen_stage(tmp_path):
    toy_runner(tmp_path, [LocalSGDHook(local_iters=3)], model=ToyModel(frozen_stages=3)).train()


class SometimesModel(ToyModel):
    """Has a norm that training batches do not reach."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = torch.nn.BatchNorm2d(3)
        self.unused.running_mean.fill_(4.0)


def test_a_norm_that_no_batch_reaches_keeps_its_statistics(tmp_path):
    model = SometimesModel()
    toy_runner(tmp_path, [ResISTHook(local_iters=3)], model=model).train()
    assert (model.unused.running_mean == 4.0).all()
    assert not torch.equal(model.backbone.layer1[0].norm1.running_var, torch.ones(4))


@pytest.mark.parametrize(
    ('train_cfg', 'checkpoint', 'expected'),
    [
        (dict(by_epoch=True, max_epochs=4), dict(interval=2), {16, 32}),
        (dict(by_epoch=True, max_epochs=4), dict(interval=2, save_begin=1), {8, 24}),
        (dict(by_epoch=True, max_epochs=2), dict(interval=5, by_epoch=False), {5, 10, 15}),
        (dict(by_epoch=False, max_iters=10), dict(interval=4, by_epoch=False), {4, 8}),
        (dict(by_epoch=False, max_iters=10), dict(interval=1), {10}),
        (dict(by_epoch=True, max_epochs=2), None, set()),
    ],
)
def test_when_the_whole_model_is_needed(tmp_path, train_cfg, checkpoint, expected):
    hooks = dict(checkpoint=checkpoint and dict(type='CheckpointHook', **checkpoint))
    runner = toy_runner(tmp_path, [], train_cfg=train_cfg, default_hooks=hooks)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    assert whole_model_iters(runner) == expected
