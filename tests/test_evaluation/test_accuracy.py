"""Top-k accuracy, by hand and over workers."""

from __future__ import annotations

import pytest
import torch
from mmengine.evaluator import Evaluator

from resist_mm.evaluation import Accuracy
from tests.workers import run_workers

LOGITS = torch.tensor([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1], [1, 2, 3, 4]])
LABELS = [0, 1, 3, 3]


def samples(logits: torch.Tensor = LOGITS, labels: list[int] = LABELS) -> list[dict]:
    return [dict(logits=row, label=label) for row, label in zip(logits, labels, strict=True)]


def test_by_hand():
    metric = Accuracy(topk=(1, 2, 3))
    metric.process(None, samples())
    assert metric.evaluate(4) == {'accuracy/top1': 50.0, 'accuracy/top2': 75.0, 'accuracy/top3': 75.0}


def test_ties_and_nan_are_wrong():
    metric = Accuracy(topk=(1, 2))
    logits = torch.tensor([[1.0, 1, 0], [float('nan')] * 3, [float('nan'), 2, 1]])
    metric.process(None, samples(logits, [0, 0, 1]))
    # the tied one is among the first two, the last one behind a NaN only
    assert metric.evaluate(3) == {'accuracy/top1': 0.0, 'accuracy/top2': pytest.approx(200 / 3)}


def test_errors():
    with pytest.raises(ValueError, match='topk must name positive numbers'):
        Accuracy(topk=(0, 1))
    with pytest.raises(ValueError, match=r"needs `logits` and `label`.*\['logits'\]"):
        Accuracy().process(None, [dict(logits=torch.ones(2))])
    with pytest.raises(ValueError, match='no images'):
        Accuracy().compute_metrics([])


def _of_two_workers() -> dict:
    rank = torch.distributed.get_rank()
    evaluator = Evaluator([dict(type='resist_mm.Accuracy', topk=(1,)), dict(type='resist_mm.LossMetric')])
    # three images; the sampler has given the first one to both workers
    logits, labels = (
        LOGITS[[0, 2] if rank == 0 else [1, 0]],
        [LABELS[i] for i in ([0, 2] if rank == 0 else [1, 0])],
    )
    losses = [10.0, 30.0] if rank == 0 else [20.0, 10.0]
    evaluator.process([{**s, 'loss': loss} for s, loss in zip(samples(logits, labels), losses, strict=True)])
    return evaluator.evaluate(3)


def test_accuracy_and_loss_are_those_of_all_workers():
    for metrics in run_workers(_of_two_workers, 2):
        assert metrics == {'accuracy/top1': pytest.approx(100 / 3), 'test/loss': pytest.approx(20.0)}
