"""What a protocol remembers is in checkpoints, and a resumed run goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor

from resist_mm.hooks import RoundHook
from resist_mm.hooks.resumed import PROTOCOL_KEY
from resist_mm.rounds import ResIST
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers

OUTER = dict(type='SGD', lr=0.8, momentum=0.6, nesterov=True, blocks=True)


class Held(Hook):
    """In a round the message hub, which checkpoints save, keeps no state that the worker has dropped."""

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        assert PROTOCOL_KEY not in runner.message_hub.runtime_info


def _train(work_dir: str, forgets: bool, **resumed: Any) -> dict[str, Tensor]:
    protocol = ResIST(min_blocks=4, outer=OUTER)
    if forgets:
        protocol.load_state_dict = lambda state: None
    runner = toy_runner(
        work_dir,
        [Held(), RoundHook(protocol, local_iters=2, bn='average')],
        model=ToyModel(norm_cfg=dict(type='BN', track_running_stats=False)),
        train_cfg=dict(by_epoch=False, max_iters=8),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(32),
            collate_fn=dict(type='default_collate'),
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4)),
        **resumed,
    )
    runner.train()
    return runner.model.module.state_dict()


def test_a_resumed_outer_step_goes_on_with_its_momentum(tmp_path: Path):
    folders = [tmp_path / name for name in ('whole', 'resumed', 'forgetful')]
    for folder in folders:
        folder.mkdir()
    (whole, *_) = run_workers(_train, 2, str(folders[0]), False)
    halfway = dict(load_from=str(folders[0] / 'iter_4.pth'), resume=True)
    for folder, forgets in zip(folders[1:], (False, True), strict=True):
        for state in run_workers(_resumed, 2, str(folder), forgets, halfway):
            assert all(torch.equal(t, whole[name]) for name, t in state.items()) != forgets


def _resumed(work_dir: str, forgets: bool, halfway: dict[str, Any]) -> dict[str, Tensor]:
    return _train(work_dir, forgets, **halfway)
