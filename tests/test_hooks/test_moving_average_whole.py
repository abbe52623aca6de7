"""A moving average when the model is whole: validation, checkpoints, resuming, the order of hooks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import EMAHook, Hook
from torch import Tensor

from resist_mm.hooks import LocalSGDHook, ResISTHook
from tests.test_hooks.averages import EMA, EXP, SWA, by_iters, copy_of, ema_hook_of, model_of, run_all, train
from tests.test_hooks.test_whole_model import EvaluatedToyModel, ToyMetric
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers


def _orders(work_dir: str) -> list[dict]:
    found = []
    for priority in (49, 'NORMAL', 'LOW'):
        for first in (True, False):
            hook, ema = ResISTHook(local_iters=2, min_blocks=2, bn_batches=2), dict(EMA, priority=priority)
            runner = toy_runner(work_dir, [ema, hook] if first else [hook, ema], **by_iters(5))
            runner.train()
            order = [h for h in runner.hooks if h is hook or isinstance(h, EMAHook)]
            assert isinstance(order[0], EMAHook)
            assert len(runner.hooks) == len(set(map(id, runner.hooks)))
            found.append(copy_of(ema_hook_of(runner).ema_model.state_dict()))
    return found


def test_the_order_of_hooks_does_not_matter(tmp_path):
    for states in run_workers(_orders, 2, str(tmp_path)):
        for state in states[1:]:
            for name in state:
                assert torch.equal(state[name], states[0][name]), name


def _evaluation(metric: ToyMetric) -> dict:
    return dict(
        val_dataloader=dict(
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=ToyData(16),
            collate_fn=dict(type='default_collate'),
        ),
        val_cfg=dict(),
        val_evaluator=Evaluator([metric]),
    )


def _validated(work_dir: str, ema: dict | None, bn: str) -> tuple[dict, Tensor]:
    metric = ToyMetric()
    hook = ResISTHook(local_iters=3, min_blocks=2, momentum_restart_interval=None, bn=bn)
    runner = toy_runner(
        work_dir,
        [hook, *([dict(ema)] if ema else [])],
        model=EvaluatedToyModel(),
        train_cfg=dict(by_epoch=True, max_epochs=3, val_interval=1),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='score', rule='greater')),
        **_evaluation(metric),
    )
    runner.train()
    return copy_of(model_of(runner).state_dict()), metric.logits


def _with_and_without(work_dir: str, ema: dict, bn: str) -> tuple:
    for name in ('with', 'without'):
        Path(work_dir, name).mkdir(parents=True, exist_ok=True)
    return _validated(f'{work_dir}/with', ema, bn), _validated(f'{work_dir}/without', None, bn)


def test_the_average_is_validated_and_saved_and_training_does_not_notice(tmp_path):
    cases = [(EMA, 'recalibrate'), (EXP, 'recalibrate'), (EXP, 'average')]
    folders = [tmp_path / str(i) for i in range(len(cases))]
    calls = [(_with_and_without, (str(folder), *case)) for folder, case in zip(folders, cases, strict=True)]
    for folder, results in zip(folders, run_all(2, calls), strict=True):
        _check_validated(folder, results)


def _check_validated(folder: Path, results: list) -> None:
    checkpoint = torch.load(folder / 'with/epoch_3.pth', map_location='cpu', weights_only=False)
    for (trained, _), (undisturbed, _) in results:
        for name in trained:  # the average changes nothing of what is trained
            assert torch.equal(trained[name], undisturbed[name]), name
            assert torch.equal(trained[name], checkpoint['ema_state_dict'][f'module.{name}']), name
    (_, logits), (_, without_average) = results[0]  # worker 0 collects them
    assert not torch.equal(logits, without_average)
    # mmengine saves the average as the model, to be deployed, and the model beside it
    deployed = EvaluatedToyModel()
    deployed.load_state_dict(checkpoint['state_dict'])
    assert torch.equal(_logits(deployed), logits)
    assert list(folder.glob('with/best_score_*.pth'))


@torch.no_grad()
def _logits(model: ToyModel) -> Tensor:
    data = ToyData(16)
    images = sorted(data.images, key=lambda image: tuple(image.flatten().tolist()))
    model.eval()
    # in batches of four as they were validated: other sizes may sum up in another order
    of_image = {}
    for worker in range(2):
        mine = data.images[worker::2]
        for batch in mine.split(4):
            logits = model(batch, None)
            of_image |= {tuple(i.flatten().tolist()): out for i, out in zip(batch, logits, strict=True)}
    return torch.stack([of_image[tuple(image.flatten().tolist())] for image in images])


def _resumable(work_dir: str, hook: Hook, ema: dict, **overrides: Any) -> tuple[dict, dict]:
    checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=4)
    hooks = dict(checkpoint=checkpoint)
    trained, averaged, _ = train(work_dir, [hook, dict(ema)], **by_iters(8, default_hooks=hooks, **overrides))
    return trained, averaged


def _resume(work_dir: str, checkpoint: str, hook: Hook, ema: dict) -> tuple[dict, dict]:
    return _resumable(work_dir, hook, ema, load_from=checkpoint, resume=True)


def test_a_resumed_run_ends_where_the_undisturbed_one_did(tmp_path):
    cases = [
        (ResISTHook(local_iters=3, min_blocks=2, bn='average'), EXP),
        (ResISTHook(local_iters=3, min_blocks=2, bn_batches=4), EXP),
        (ResISTHook(local_iters=3, min_blocks=2, bn_batches=4), dict(EMA, begin_iter=6)),
        (LocalSGDHook(local_iters=3, bn_batches=4), SWA),
    ]
    places = [(str(tmp_path / f'{i}'), str(tmp_path / f'{i}/iter_4.pth')) for i in range(len(cases))]
    undisturbed = run_all(2, [(_resumable, (w, *case)) for (w, _), case in zip(places, cases, strict=True)])
    calls = [(_resume, (f'{w}-resumed', c, *case)) for (w, c), case in zip(places, cases, strict=True)]
    for expected, resumed in zip(undisturbed, run_all(2, calls), strict=True):
        for of_worker in resumed:
            for state, expected_state in zip(of_worker, expected[0], strict=True):
                for name in state:
                    assert torch.equal(state[name], expected_state[name]), name


def test_a_run_resumes_with_another_number_of_workers(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir(), second.mkdir()
    hook = ResISTHook(local_iters=3, min_blocks=2)
    run_workers(_resumable, 2, str(first), hook, EXP)
    results = run_workers(_resume, 3, str(second), str(first / 'iter_4.pth'), hook, EXP)
    for trained, averaged in results:
        assert averaged['module.backbone.layer3.scale'] == trained['backbone.layer3.scale'] == pytest.approx(1 / 3)
        for name in averaged:
            assert torch.equal(averaged[name], results[0][1][name]), name
