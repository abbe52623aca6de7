"""What a run does when a worker is lost: all validation data is seen, and the checkpoint says whose it is."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.hooks.exact_resume import KEY
from tests.jobs import run_job
from tests.toy import ToyData, ToyModel, toy_runner

WORKERS, IMAGES = 3, 11


class Seen(BaseMetric):
    """The labels that were evaluated, and the images, each by its first number."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        images, _ = data_batch
        self.results += images[:, 0, 0, 0].tolist()

    def compute_metrics(self, results: list) -> dict:
        return dict(count=len(results), total=sum(results))


class Kill(Hook):
    """Kills worker 0 in the third round."""

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter == 5 and runner.rank == 0 and runner.world_size == WORKERS:
            os.kill(os.getpid(), signal.SIGKILL)


class Model(ToyModel):
    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = 'tensor') -> Any:
        return super().forward(inputs, labels, mode if mode == 'loss' else 'tensor')


def _train(rank: int, work_dir: Path) -> dict[str, Any]:
    hook = dict(type='resist_mm.ResISTHook', local_iters=2, min_blocks=2, bn_batches=2, on_worker_loss='continue')
    data = dict(batch_size=2, collate_fn=dict(type='default_collate'))
    runner = toy_runner(
        work_dir,
        [hook, dict(type='resist_mm.ExactResumeHook'), Kill()],
        Model(),
        train_cfg=dict(by_epoch=False, max_iters=8, val_interval=4),
        train_dataloader=dict(data, dataset=ToyData(24), sampler=dict(type='InfiniteSampler', shuffle=True)),
        val_cfg=dict(),
        val_dataloader=dict(data, dataset=ToyData(IMAGES), sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=[Seen()],
        default_hooks=dict(checkpoint=dict(type='resist_mm.SafeCheckpointHook', by_epoch=False, interval=8)),
    )
    runner.train()
    engine = next(hook.engine for hook in runner.hooks if hasattr(hook, 'engine'))
    engine.recovery.membership.close()
    scalars = runner.message_hub.log_scalars
    return dict(
        seen={key: scalars[f'val/{key}'].data[0].tolist() for key in ('count', 'total')},
        place=(runner.rank, runner.world_size, engine.num_workers),
    )


def test_another_worker_takes_the_place_of_worker_0(tmp_path: Path):
    lost, *left = run_job(_train, WORKERS, tmp_path)
    assert lost is None
    total = ToyData(IMAGES).images[:, 0, 0, 0].sum().item()
    for rank, result in enumerate(left):
        assert result['place'] == (rank, 2, 2)
        assert result['seen']['count'] == [IMAGES, IMAGES]
        torch.testing.assert_close(torch.tensor(result['seen']['total']), torch.full((2,), total))
    saved = torch.load(tmp_path / 'iter_8.pth', weights_only=False)
    assert saved['meta']['iter'] == 8
    state = saved['message_hub']['runtime_info'][KEY]
    assert (state['workers'], state['lost_workers']) == (2, 1)
    assert all(value.isfinite().all() for value in saved['state_dict'].values())
