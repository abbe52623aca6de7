"""``overlap_iters`` with a Runner: when averages begin, what is logged, resumed runs, and arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.rounds.overlap import Overlap
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers

ARGUMENTS: dict[str, Any] = dict(local_iters=3, overlap_iters=1, bn='average')
RESIST: dict[str, Any] = dict(
    min_blocks=2,
    warmup_rounds=1,
    outer=dict(type='SGD', lr=0.8, momentum=0.6, nesterov=True),
    codec=dict(type='changes', bits=3),
)


def _train(work_dir: str, protocol: str, **resumed: Any) -> tuple[dict, list[int], float]:
    hook = ResISTHook(**ARGUMENTS, **RESIST) if protocol == 'resist' else LocalSGDHook(**ARGUMENTS)
    began: list[int] = []
    runner = toy_runner(
        work_dir,
        [hook],
        model=ToyModel(norm_cfg=dict(type='BN', track_running_stats=False)),
        train_cfg=dict(by_epoch=False, max_iters=21),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(32),
            collate_fn=dict(type='default_collate'),
        ),
        # ends a round that is full, and one after two of its iterations
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=9)),
        experiment_name=f'overlap_{Path(work_dir).name}',
        **resumed,
    )
    start = Overlap.start

    def noted(self: Overlap, *args: Any) -> None:
        began.append(runner.iter)
        start(self, *args)

    Overlap.start = noted  # type: ignore[method-assign]
    try:
        runner.train()
    finally:
        Overlap.start = start  # type: ignore[method-assign]
    state = {name: tensor.clone() for name, tensor in runner.model.module.state_dict().items()}
    return state, began, runner.message_hub.get_scalar('train/wait_sec').current()


def _both(folder: str) -> dict[str, list]:
    found = {}
    for protocol in ('resist', 'local'):
        whole, resumed = Path(folder, protocol), Path(folder, f'{protocol}_resumed')
        for path in (whole, resumed):
            path.mkdir(exist_ok=True)
        found[protocol] = [
            _train(str(whole), protocol),
            _train(str(resumed), protocol, load_from=str(whole / 'iter_9.pth'), resume=True),
        ]
    return found


def test_averages_begin_before_rounds_end_and_resumed_runs_are_the_same_to_the_bit(tmp_path):
    for of_worker in run_workers(_both, 2, str(tmp_path)):
        for whole, resumed in of_worker.values():
            # rounds end after 3, 6, 9 (saved), 12, 15, 18 (saved), 21 (the end)
            assert whole[1] == [2, 5, 11, 14]
            assert resumed[1] == [11, 14]
            assert all(torch.equal(tensor, whole[0][name]) for name, tensor in resumed[0].items())
            assert whole[2] > 0


def test_what_cannot_be_combined_is_named():
    for made in (ResISTHook, LocalSGDHook):
        for wrong, name in (
            (dict(bad_numbers='drop'), "bad_numbers='drop'"),
            (dict(on_worker_loss='continue'), "on_worker_loss='continue'"),
            (dict(codec=dict(type='quantize', bits=4, stochastic=True)), 'codec.stochastic=True'),
        ):
            message = rf'{made.__name__}\.overlap_iters=2 cannot be combined with {name}'
            with pytest.raises(ValueError, match=message):
                made(overlap_iters=2, **wrong)
        with pytest.raises(ValueError, match=r'overlap_iters must be below local_iters=5, got 5'):
            made(local_iters=5, overlap_iters=5)
