"""A run that does little but save, for the tests of checkpoints."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn

from tests.toy import ToyData, toy_runner

_RUNS = itertools.count()


class Linear(BaseModel):
    """A linear classifier, and a buffer that makes checkpoints large enough to be caught half written."""

    def __init__(self, buffer_bytes: int = 0) -> None:
        super().__init__()
        self.linear = nn.Linear(3 * 8 * 8, 2)
        self.register_buffer('ballast', torch.zeros(buffer_bytes, dtype=torch.uint8))

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        logits = self.linear(inputs.flatten(1))
        return dict(loss=nn.functional.cross_entropy(logits, labels)) if mode == 'loss' else [logits]


class Rising(BaseMetric):
    """A score that rises at every validation, also of a resumed run, so that each one saves a best checkpoint."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(score=time.time())


def saving_runner(
    work_dir: Path, iters: int, buffer_bytes: int = 0, best: bool = False, resume: bool = False, **hook: Any
) -> Runner:
    """Saves after every iteration, and keeps one checkpoint; from the same weights each time."""
    torch.manual_seed(0)
    checkpoint = dict(type='resist_mm.SafeCheckpointHook', interval=1, by_epoch=False, max_keep_ckpts=1)
    if best:
        checkpoint.update(save_best='score', rule='greater')
    loader = dict(
        batch_size=4,
        sampler=dict(type='InfiniteSampler', seed=1),
        dataset=ToyData(),
        collate_fn=dict(type='default_collate'),
    )
    validation: dict[str, Any] = {}
    if best:
        validation = dict(
            val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False), batch_size=32),
            val_cfg=dict(),
            val_evaluator=Evaluator([Rising(prefix='')]),
        )
    return toy_runner(
        work_dir,
        [],
        Linear(buffer_bytes),
        train_dataloader=loader,
        train_cfg=dict(by_epoch=False, max_iters=iters, val_interval=1),
        default_hooks=dict(logger=None, checkpoint={**checkpoint, **hook}),
        resume=resume,
        experiment_name=f'saving_{next(_RUNS)}',
        **validation,
    )


def names(folder: Path) -> list[str]:
    """The checkpoints in a folder, and unfinished ones."""
    return sorted(path.name for path in folder.glob('*.pth*'))
