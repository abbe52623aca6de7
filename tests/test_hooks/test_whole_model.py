"""When the model is whole: checkpoints, resuming, evaluation, buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.hooks.resumed import ROUND_KEY, SEED_KEY
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers


class ToyMetric(BaseMetric):
    """Collects logits of all workers."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = torch.empty(0)

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results += [(tuple(image.flatten().tolist()), logits) for image, logits in data_samples]

    def compute_metrics(self, results: list) -> dict:
        self.logits = torch.stack([logits for _, logits in sorted(results, key=lambda pair: pair[0])])
        return dict(score=float(self.logits.sum()))


class EvaluatedToyModel(ToyModel):
    """The toy model; a prediction comes with the image that it is for."""

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = 'tensor') -> Any:
        if mode == 'predict':
            return list(zip(inputs, super().forward(inputs, labels), strict=True))
        return super().forward(inputs, labels, mode)


class CountingToyModel(EvaluatedToyModel):
    """Writes a buffer that is not a statistic, with a different value on each worker."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))
        self.worker = dist.get_rank()

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor, mode: str = 'tensor') -> Any:
        self.seen += 1 + self.worker
        return super().forward(inputs, labels, mode)


class Log(Hook):
    """Keeps the messages of the log."""

    priority = 'HIGHEST'

    def __init__(self) -> None:
        self.lines: list[str] = []

    def before_run(self, runner: Runner) -> None:
        for level in ('info', 'warning'):
            setattr(runner.logger, level, lambda message, *args: self.lines.append(str(message)))


def _evaluation() -> dict:
    return dict(
        val_dataloader=dict(
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=ToyData(16),
            collate_fn=dict(type='default_collate'),
        ),
        val_cfg=dict(),
    )


def _whole(checkpoint: dict) -> None:
    sizes = {name: p.shape for name, p in ToyModel().state_dict().items()}
    assert {name: p.shape for name, p in checkpoint['state_dict'].items()} == sizes


def _load(path: Path) -> dict:
    return torch.load(path, map_location='cpu', weights_only=False)


def _checkpoint_by_epoch(work_dir: str) -> tuple:
    hook, log, metric = ResISTHook(local_iters=3, min_blocks=2), Log(), ToyMetric()
    runner = toy_runner(
        work_dir,
        [hook, log],
        model=EvaluatedToyModel(),
        train_cfg=dict(by_epoch=True, max_epochs=2, val_interval=1),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')),
        val_evaluator=Evaluator([metric]),
        **_evaluation(),
    )
    runner.train()
    return log.lines, metric.logits, runner.model.module.state_dict(), hook.seed


def test_checkpoints_by_epoch_and_best_hold_the_whole_model(tmp_path):
    # 16 / 2 workers * 2 epochs; rounds of 3 iterations do not divide the 4 of an epoch
    results = run_workers(_checkpoint_by_epoch, 2, str(tmp_path))
    lines, _, last, seed = results[0]
    assert sum('Round 1 ends early, after 1 of 3 iterations: a checkpoint' in line for line in lines) == 1
    assert sum('Round 3 ends early' in line for line in lines) == 1
    assert not any('Round 0 ends early' in line for line in lines)
    assert any('2 of 4 rounds will end early' in line for line in lines)
    for name, rounds in (('epoch_1.pth', 2), ('epoch_2.pth', 4)):
        checkpoint = _load(tmp_path / name)
        _whole(checkpoint)
        assert checkpoint['message_hub']['runtime_info'][ROUND_KEY] == rounds
        assert checkpoint['message_hub']['runtime_info'][SEED_KEY] == seed
    for best in tmp_path.glob('best_score_*.pth'):
        _whole(_load(best))
    assert list(tmp_path.glob('best_score_*.pth'))
    saved = _load(tmp_path / 'epoch_2.pth')['state_dict']
    assert saved['backbone.layer3.scale'] == 0.5
    for _, _, of_worker, _ in results:  # parameters and buffers, bit for bit
        for name in saved:
            assert torch.equal(saved[name], of_worker[name]), name
            assert torch.equal(saved[name], last[name]), name


def test_a_checkpoint_evaluates_without_a_hook_as_the_workers_did(tmp_path):
    (_, logits, _, _), _ = run_workers(_checkpoint_by_epoch, 2, str(tmp_path))
    metric = ToyMetric()
    runner = toy_runner(
        tmp_path,
        [],
        model=EvaluatedToyModel(),
        load_from=str(tmp_path / 'epoch_2.pth'),
        val_evaluator=Evaluator([metric]),
        **_evaluation(),
    )
    runner.val()
    assert torch.equal(metric.logits, logits)


def _by_iteration(work_dir: str, hook: ResISTHook, **overrides: Any) -> tuple[ResISTHook, Log, Runner]:
    log = Log()
    runner = toy_runner(
        work_dir,
        [hook, log],
        train_cfg=dict(by_epoch=False, max_iters=8),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(32),
            collate_fn=dict(type='default_collate'),
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4)),
        **overrides,
    )
    runner.train()
    return hook, log, runner


def _checkpoint_by_iteration(work_dir: str) -> list[str]:
    return _by_iteration(work_dir, ResISTHook(local_iters=3, min_blocks=2))[1].lines


def _resume(work_dir: str, checkpoint: str) -> tuple[dict, int, int]:
    hook, _, runner = _by_iteration(
        work_dir, ResISTHook(local_iters=3, min_blocks=2), load_from=checkpoint, resume=True
    )
    return runner.model.module.state_dict(), hook.round, hook.seed


def test_checkpoint_by_iteration_and_resuming(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir(), second.mkdir()
    lines = run_workers(_checkpoint_by_iteration, 2, str(first))[0]
    assert any('Round 1 ends early, after 1 of 3 iterations: a checkpoint' in line for line in lines)
    halfway, end = _load(first / 'iter_4.pth'), _load(first / 'iter_8.pth')
    _whole(halfway)
    assert halfway['message_hub']['runtime_info'][ROUND_KEY] == 2
    for state, rounds, seed in run_workers(_resume, 2, str(second), str(first / 'iter_4.pth')):
        assert rounds == 4
        assert seed == halfway['message_hub']['runtime_info'][SEED_KEY]
        for name in state:  # the resumed run ends where the uninterrupted one did
            if not name.endswith(('running_mean', 'running_var')):
                assert torch.equal(state[name], end['state_dict'][name]), name


def test_a_run_resumes_with_another_number_of_workers(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir(), second.mkdir()
    run_workers(_checkpoint_by_iteration, 2, str(first))
    for state, rounds, _ in run_workers(_resume, 3, str(second), str(first / 'iter_4.pth')):
        assert rounds == 4
        assert state['backbone.layer3.scale'] == pytest.approx(1 / 3)


def _buffers(work_dir: str, bn: str, protocol: type) -> tuple[dict, dict]:
    hook = protocol(local_iters=3, bn=bn, bn_batches=2)
    model = CountingToyModel()
    runner = toy_runner(work_dir, [hook], model=model, train_cfg=dict(by_epoch=True, max_epochs=1))
    batches: list = []
    runner.register_hook(_LastBatches(batches))
    runner.train()
    trained = runner.model.module
    return dict(trained.named_buffers()), dict(batches=batches, weights=trained.state_dict())


class _LastBatches(Hook):
    def __init__(self, batches: list) -> None:
        self.batches = batches

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.batches.append(data_batch)


@pytest.mark.parametrize(('bn', 'protocol'), [('recalibrate', ResISTHook), ('average', LocalSGDHook)])
def test_buffers_agree_when_the_model_is_whole(tmp_path, bn, protocol):
    results = run_workers(_buffers, 3, str(tmp_path), bn, protocol)
    for buffers, _ in results:
        for name in buffers:
            assert torch.equal(buffers[name], results[0][0][name]), name
        assert buffers['seen'] == 3  # worker 0's three iterations; recalibration does not count
    if bn == 'recalibrate':
        _check_statistics(results)


def _check_statistics(results: list) -> None:
    """The first norm's statistics are the mean over the last two batches of all workers."""
    weights = results[0][1]['weights']
    means, variances = [], []
    for _, seen in results:
        for images, _ in seen['batches'][-2:]:
            out = torch.nn.functional.conv2d(images, weights['backbone.stem.0.weight'], padding=1)
            means.append(out.mean((0, 2, 3)))
            variances.append(out.var((0, 2, 3)))
    norm = 'backbone.layer1.0.norm1'
    torch.testing.assert_close(weights[f'{norm}.running_mean'], torch.stack(means).mean(0))
    torch.testing.assert_close(weights[f'{norm}.running_var'], torch.stack(variances).mean(0))


def test_saving_inside_a_round_is_refused(tmp_path):
    class SavesWhenItLikes(Hook):
        def after_train_iter(
            self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
        ) -> None:
            runner.save_checkpoint(runner.work_dir, 'broken.pth')

    with pytest.raises(RuntimeError, match='inside a round'):
        toy_runner(tmp_path, [ResISTHook(local_iters=3), SavesWhenItLikes()]).train()
    assert not (tmp_path / 'broken.pth').exists()
