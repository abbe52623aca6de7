"""Inside a round: what a worker holds, and that it does not communicate."""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from mmengine.hooks import Hook

from resist_mm.hooks import ResISTHook
from tests.toy import toy_runner
from tests.workers import run_workers


class Watcher(Hook):
    """Inspects the worker after every iteration, and when a round has begun."""

    priority = 'LOWEST'

    def __init__(self, hook: ResISTHook) -> None:
        self.hook = hook
        self.collectives: list[int] = []
        self.resident: list[tuple[int, int]] = []

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.before = _collectives()

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.collectives.append(_collectives() - self.before)
        parts, assignment = self.hook.engine.parts, self.hook.engine.assignment
        mine = assignment.blocks(dist.get_rank())
        for part in parts.blocks:
            held = part.block in mine
            for p, size, _ in part.flat.layouts():
                assert p.numel() == (size.numel() if held else 0)
                assert (p.grad is not None) == held
                assert (p in runner.optim_wrapper.optimizer.state) == held
                if not held:
                    assert p.untyped_storage().nbytes() == 0
        storages = {
            p.untyped_storage().data_ptr(): p.untyped_storage().nbytes()
            for p in parts.model.parameters()
            if p.numel()
        }
        shared = sum(part.nbytes for part in parts.shared)
        sub_resnet = shared + sum(parts.blocks[block].nbytes for block in mine)
        self.resident.append((sum(storages.values()), sub_resnet))


def _collectives() -> int:
    return dist.group.WORLD._get_sequence_number_for_group()


def _train_and_watch(work_dir: str) -> tuple:
    hook = ResISTHook(local_iters=2, min_blocks=2)
    watcher = Watcher(hook)
    # zero_grad() runs after each step, so gradients are looked at while they accumulate
    optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9))
    runner = toy_runner(work_dir, [hook, watcher], optim_wrapper=optim_wrapper)
    runner.optim_wrapper = runner.build_optim_wrapper(optim_wrapper)
    runner.optim_wrapper.zero_grad = lambda **kwargs: None
    before = _collectives()
    dist.barrier()
    counted = _collectives() - before
    runner.train()
    return watcher.collectives, watcher.resident, counted


def test_a_worker_holds_its_sub_resnet_and_does_not_communicate(tmp_path):
    for collectives, resident, counted in run_workers(_train_and_watch, 4, str(tmp_path)):
        assert counted == 1, 'the count of collectives does not work'
        assert len(collectives) == 4
        assert not any(collectives), collectives
        for found, sub_resnet in resident:
            assert found == sub_resnet
