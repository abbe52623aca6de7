"""Training in rounds gives the right numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.model import MMDistributedDataParallel

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.partition import PartitionSampler
from tests.test_hooks.reference import simulate
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers


class Recorder(Hook):
    """Keeps the weights at the start and the batches of this worker."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.batches: list = []
        self.start: dict = {}

    def before_train(self, runner: Any) -> None:
        model = runner.model.module if hasattr(runner.model, 'module') else runner.model
        self.start = {name: p.detach().clone() for name, p in model.named_parameters()}

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.batches.append([t.clone() for t in data_batch])


def _train(work_dir: str, hook: Hook, **overrides: Any) -> tuple[dict, Recorder]:
    recorder = Recorder()
    runner = toy_runner(work_dir, [hook, recorder], **overrides)
    model = runner.train()
    model = getattr(model, 'module', model)
    return {k: v.detach().clone() for k, v in model.named_parameters()}, recorder


def test_one_worker_is_plain_training_bit_for_bit(tmp_path):
    overrides: dict = dict(optim_wrapper=dict(optimizer=dict(type='Adam', lr=0.01)))
    plain, _ = _train(tmp_path, Recorder(), **overrides)
    hook = ResISTHook(local_iters=3, momentum_restart_interval=None)
    resist, _ = _train(tmp_path, hook, **overrides)
    assert hook.round == 6  # 16 iterations: five full rounds and one ended early
    for name in plain:
        assert torch.equal(plain[name], resist[name]), name


def _local_sgd_every_iteration(work_dir: str) -> tuple[dict, dict]:
    overrides: dict = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)))
    weights, recorder = _train(work_dir, LocalSGDHook(local_iters=1), **overrides)
    return weights, recorder.start


def _ddp(work_dir: str) -> dict:
    model = ToyModel()
    model.init_weights()  # before DDP compares them; the Runner repeats it, with the same result
    ddp = MMDistributedDataParallel(model, device_ids=None, broadcast_buffers=False)
    overrides: dict = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05)))
    weights, _ = _train(work_dir, Recorder(), model=ddp, **overrides)
    return weights


def _both(work_dir: str) -> tuple[dict, dict]:
    return _local_sgd_every_iteration(work_dir), _ddp(work_dir)


def test_local_sgd_with_one_iteration_is_data_parallel_training(tmp_path):
    for (local_sgd, start), ddp in run_workers(_both, 2, str(tmp_path)):
        assert any((ddp[name] - start[name]).abs().max() > 1e-2 for name in ddp), 'nothing was trained'
        for name in ddp:
            torch.testing.assert_close(local_sgd[name], ddp[name], rtol=0, atol=1e-5)


def _resist(work_dir: str, interval: int | None, min_blocks: int, bn: str) -> tuple[dict, Recorder, int]:
    hook = ResISTHook(local_iters=2, min_blocks=min_blocks, momentum_restart_interval=interval, bn=bn)
    weights, recorder = _train(
        work_dir,
        hook,
        train_cfg=dict(by_epoch=True, max_epochs=1),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=ToyData(12 * dist.get_world_size()),
            collate_fn=dict(type='default_collate'),
        ),
    )
    return weights, recorder, hook.seed


@pytest.mark.parametrize(
    ('num_workers', 'interval', 'min_blocks', 'bn'),
    [(2, 1, 3, 'recalibrate'), (4, 1, 2, 'average'), (4, None, 2, 'recalibrate'), (3, 2, 3, 'average')],
)
def test_three_rounds_equal_a_simulation_in_one_process(tmp_path, num_workers, interval, min_blocks, bn):
    results = run_workers(_resist, num_workers, str(tmp_path), interval, min_blocks, bn)
    weights, recorder, seed = results[0]
    assert len(recorder.batches) == 6
    sampler = PartitionSampler(6, num_workers, min_blocks, seed)
    common = dict(local_iters=2, lr=0.05, momentum=0.9)
    batches = [of_worker.batches for _, of_worker, _ in results]
    assignments = [sampler.sample(index) for index in range(3)]
    start = copy.deepcopy(recorder.start)
    if interval == 2:  # two rounds with the momentum kept, then afresh
        middle = simulate(start, batches, assignments[:2], keep_momentum=True, **common)
        rest = [b[4:] for b in batches]
        expected = simulate(middle, rest, assignments[2:], **common)
    else:
        expected = simulate(start, batches, assignments, keep_momentum=interval is None, **common)
    for worker, (of_worker, _, _) in enumerate(results):
        for name in expected:
            torch.testing.assert_close(of_worker[name], expected[name], rtol=0, atol=1e-6)
            assert torch.equal(of_worker[name], weights[name]), f'worker {worker} differs in {name}'
    assert any((weights[n] - recorder.start[n]).abs().max() > 1e-2 for n in weights), 'nothing was trained'
