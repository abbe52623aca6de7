"""Workers of unequal speed: real workers against a reference, checkpoints, and what is refused."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from torch import Tensor

from resist_mm.hooks import LocalSGDHook, ResISTHook, RoundHook
from resist_mm.hooks.resumed import SPEEDS_KEY
from resist_mm.partition import Assignment
from resist_mm.rounds.positions import trains
from tests.test_hooks.averages import DoubleData, by_iters, run_all
from tests.test_hooks.reference import simulate_with_average
from tests.toy import ToyData, ToyModel, toy_runner

SECONDS = [4.0, 2.0, 1.0]  # of a block on each worker
SHARED = 2.0  # what everything else costs, in blocks
_RUNS = itertools.count()


class Clocked:
    """A hook whose workers take the seconds above; keeps what each round was."""

    def __init__(self, hook: RoundHook) -> None:
        self.rounds: list[tuple[Assignment, list[int]]] = []
        trained = hook.protocol.trained

        def told(worker: int, index: int, iterations: list[int], seconds: float) -> None:
            assert hook.engine is not None and hook.engine.assignment is not None and seconds > 0
            self.rounds.append((hook.engine.assignment, iterations))
            hand = len(hook.engine.assignment.blocks(worker))
            trained(worker, index, iterations, iterations[worker] * SECONDS[worker] * (SHARED + hand))

        hook.protocol.trained = told  # type: ignore[method-assign]


class Recorder(Hook):
    """Keeps the weights at the start, the batches that are trained, learning rates and iterations."""

    priority = 'VERY_LOW'

    def __init__(self, hook: RoundHook) -> None:
        self.hook = hook
        self.batches: list[list[Tensor]] = []
        self.steps: list[tuple[int, float]] = []
        self.trained: list[bool] = []
        self.start: dict[str, Tensor] = {}

    def before_train(self, runner: Any) -> None:
        self.start = {name: p.detach().clone() for name, p in runner.model.module.named_parameters()}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.trained.append(not self.hook.pace.sits_out)
        self.steps.append((runner.iter, runner.optim_wrapper.optimizer.param_groups[0]['lr']))
        if self.trained[-1]:
            self.batches.append([t.clone() for t in data_batch])


class Loaded(DoubleData):
    """Counts the images that are loaded; in float64, since small differences grow."""

    loaded = 0

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        Loaded.loaded += 1
        return super().__getitem__(index)


def _train(work_dir: str, hook: RoundHook, hooks: tuple = (), **overrides: Any) -> dict:
    clock, recorder = Clocked(hook), Recorder(hook)
    folder = Path(work_dir) / f'run{next(_RUNS)}'
    folder.mkdir(parents=True, exist_ok=True)
    runner = toy_runner(folder, [hook, recorder, *hooks], experiment_name=f'unequal{next(_RUNS)}', **overrides)
    runner.train()
    assert hook.protocol.speeds is not None
    return dict(
        vars(recorder),
        hook=None,
        rounds=clock.rounds,
        state={name: tensor.clone() for name, tensor in runner.model.module.state_dict().items()},
        shadow={
            n.removeprefix('module.'): t.clone()
            for h in runner.hooks
            if hasattr(h, 'ema_model')
            for n, t in h.ema_model.state_dict().items()
        },
        speeds=hook.protocol.speeds.state_dict(),
        folder=str(folder),
        round=hook.round,
        left_out=hook.engine.bad_rounds.count if hook.engine else 0,
        logged=runner.message_hub.get_scalar('train/wait_sec').current(),
    )


def _by_iterations(work_dir: str, kind: str) -> dict:
    """Rounds of up to 6 iterations; the checkpoint after 16 ends the third early, after 4."""
    common: dict[str, Any] = dict(local_iters=dict(by_speed=6), speed_interval=2, bn='average')
    hook: RoundHook = LocalSGDHook(**common, momentum_restart_interval=None)
    hooks: tuple = ()
    if kind == 'sharing':
        hook = ResISTHook(**common, min_blocks=3, momentum_restart_interval=None)
        hooks = (dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3),)
    Loaded.loaded = 0
    settings = by_iters(
        28,
        data=Loaded(32),
        model=ToyModel().double(),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=16)),
    )
    return dict(_train(work_dir, hook, hooks, **settings), loaded=Loaded.loaded)


def test_weighted_means_equal_a_simulation_in_one_process(tmp_path):
    kinds = ['local SGD', 'sharing']
    for kind, results in zip(
        kinds, run_all(3, [(_by_iterations, (str(tmp_path), k)) for k in kinds]), strict=True
    ):
        first = results[0]
        counts = [of_workers for _, of_workers in first['rounds']]
        assert len({tuple(of) for of in counts}) > 1 and counts[-1][0] < counts[-1][2]
        # rounds: 6, 6, 4 (cut), 6, 6; the Runner's iterations are those of the fastest worker
        assert [max(of) for of in counts] == [6, 6, 4, 6, 6]
        assignments = [a for a, _ in first['rounds']]
        if kind == 'sharing':
            assert any(len(a.holders(block)) > 1 for a in assignments for block in range(6))
        else:
            assignments = [Assignment.full(3, 6) for _ in assignments]
            assert counts == [[6, 6, 6]] * 2 + [[2, 2, 4], [2, 3, 6], [2, 3, 6]]
        expected, _ = simulate_with_average(
            dict(first['start']),
            [of['batches'] for of in results],
            assignments,
            local_iters=6,
            lr=0.05,
            momentum=0.9,
            keep_momentum=True,
            counts=counts,
        )
        for rank, of_worker in enumerate(results):
            assert [of for _, of in of_worker['rounds']] == counts
            assert sum(of_worker['trained']) == len(of_worker['batches']) == sum(of[rank] for of in counts)
            assert of_worker['loaded'] == 2 * len(of_worker['batches'])  # nothing is loaded to be sat out
            assert of_worker['speeds'] == first['speeds'] and of_worker['logged'] > 0
            for name, value in expected.items():
                torch.testing.assert_close(of_worker['state'][name], value, rtol=0, atol=1e-9)
            for key in ('state', 'shadow'):
                for name, value in of_worker[key].items():
                    assert torch.equal(value, first[key][name]), (kind, key, name)
        assert any((expected[n] - first['start'][n]).abs().max() > 1e-2 for n in expected), 'nothing was trained'


def _both_ways(work_dir: str, resume: str | None, by_epoch: bool) -> dict:
    hook = ResISTHook(
        local_iters=dict(by_speed=3),
        speed_interval=2,
        min_blocks=1,
        blocks='by_speed',
        warmup_rounds=1,
        bn_batches=5,
    )
    settings = by_iters(18, data=ToyData(36))
    settings['train_dataloader']['sampler'] = dict(type='DefaultSampler', shuffle=True)
    every: dict[str, Any] = dict(by_epoch=False, interval=7)
    if by_epoch:  # of 6 iterations
        settings['train_cfg'] = dict(by_epoch=True, max_epochs=3)
    else:
        settings['train_dataloader']['sampler'] = dict(type='InfiniteSampler', shuffle=True)
    return _train(
        work_dir,
        hook,
        (dict(type='resist_mm.ExactResumeHook'),),
        **settings,
        param_scheduler=[dict(type='CosineAnnealingLR', by_epoch=False, T_max=18)],
        default_hooks=dict(logger=None, checkpoint=dict(type='CheckpointHook', **every)),
        load_from=resume,
        resume=resume is not None,
    )


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory) -> list[list[dict]]:
    folder = str(tmp_path_factory.mktemp('undisturbed'))
    return run_all(3, [(_both_ways, (folder, None, by_epoch)) for by_epoch in (False, True)])


def test_hands_and_iterations_follow_the_seconds_and_all_count_alike(undisturbed):
    for results in undisturbed:
        dealt, counts = zip(*results[0]['rounds'], strict=True)
        assert dealt[0].is_full and counts[0] == [3, 3, 3]  # the warm-up
        hands = [[len(a.blocks(w)) for w in range(3)] for a in dealt]
        assert hands[1] == [2, 2, 2]  # nobody has measured yet
        assert hands[-1][0] == 1 and hands[-1][2] >= 3 and sum(hands[-1]) == 6
        last_full = [of_workers for of_workers in counts if max(of_workers) == 3][-1]
        assert last_full[0] < last_full[2] == 3
        for of_worker in results:
            assert of_worker['rounds'] == results[0]['rounds']
            assert of_worker['steps'] == results[0]['steps']  # iterations and learning rates
            assert [it for it, _ in of_worker['steps']] == list(range(18))
        assert len({lr for _, lr in results[0]['steps']}) == 18
        assert len(results[0]['batches']) < len(results[2]['batches']) < 18


def test_a_resumed_run_deals_and_trains_alike(tmp_path, undisturbed):
    """From inside an epoch, with agreed speeds; after it the workers agree anew."""
    calls = [
        (_both_ways, (str(tmp_path), f'{results[0]["folder"]}/iter_14.pth', by_epoch))
        for results, by_epoch in zip(undisturbed, (False, True), strict=True)
    ]
    for before, after in zip(undisturbed, run_all(3, calls), strict=True):
        for was, now in zip(before, after, strict=True):
            assert now['round'] == was['round'] and now['rounds'] == was['rounds'][-len(now['rounds']) :]
            assert len(now['rounds']) == 2 and now['trained'] == was['trained'][14:]
            for name, value in was['state'].items():
                assert torch.equal(value, now['state'][name]), name
        saved = torch.load(f'{before[0]["folder"]}/iter_14.pth', weights_only=False)
        speeds = saved['message_hub']['runtime_info'][SPEEDS_KEY]
        assert len(speeds['seconds']) == 3 and speeds['seconds'][0] > speeds['seconds'][2]


class Explodes(Hook):
    """The weights of worker 1 become NaN once."""

    priority = 'VERY_HIGH'

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if runner.iter == 14 and dist.get_rank() == 1:
            with torch.no_grad():
                runner.model.module.head.weight.fill_(float('nan'))


def _dropped(work_dir: str) -> dict:
    hook = LocalSGDHook(local_iters=dict(by_speed=4), speed_interval=2, bad_numbers='drop')
    return _train(work_dir, hook, (Explodes(),), **by_iters(20, data=DoubleData(32), model=ToyModel().double()))


def test_a_worker_that_is_left_out_does_not_count_in_weighted_means(tmp_path):
    (results,) = run_all(3, [(_dropped, (str(tmp_path),))])
    counts = [of_workers for _, of_workers in results[0]['rounds']]
    assert counts[3] == [1, 2, 4] and results[0]['left_out'] == 1
    expected, _ = simulate_with_average(
        dict(results[0]['start']),
        [of['batches'] for of in results],
        [Assignment.full(3, 6)] * 5,
        local_iters=4,
        lr=0.05,
        momentum=0.9,
        bad={3: [1]},
        counts=counts,
    )
    for of_worker in results:
        for name, value in expected.items():
            torch.testing.assert_close(of_worker['state'][name], value, rtol=0, atol=1e-9)


def test_given_hands(tmp_path):
    hook = ResISTHook(local_iters=2, blocks=[6])
    runner = toy_runner(tmp_path, [hook], train_cfg=dict(by_epoch=False, max_iters=3))
    runner.train()
    assert hook.protocol.hands == [6] and hook.protocol.scale == 1
    with pytest.raises(ValueError, match=r'blocks=\[3, 4\] has 2 numbers for 1 workers'):
        toy_runner(tmp_path, [ResISTHook(blocks=[3, 4])]).train()


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(blocks='fast'), "ResIST.blocks must be 'by_speed', a list .*got 'fast'"),
        (dict(local_iters='fast'), "ResISTHook.local_iters must be .*'by_speed'.*got 'fast'"),
        (dict(local_iters=dict(by_speed=0)), 'ResISTHook.local_iters must be an integer of at least 1, got 0'),
        (dict(speed_interval=0), 'ResISTHook.speed_interval must be an integer of at least 1, got 0'),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        ResISTHook(**options)
    assert ResISTHook(local_iters='by_speed').local_iters == 50


def _accumulates(work_dir: str) -> str:
    wrapper: dict[str, Any] = dict(optimizer=dict(type='SGD', lr=0.05), accumulative_counts=2)
    runner = toy_runner(work_dir, [LocalSGDHook(local_iters='by_speed')], optim_wrapper=wrapper)
    with pytest.raises(ValueError, match='accumulative_counts=2: set it to 1') as error:
        runner.train()
    return str(error.value)


def test_gradient_accumulation_is_refused(tmp_path):
    run_all(2, [(_accumulates, (str(tmp_path),))])
    assert trains(0, 1, 50)
