"""The mean loss of a data set."""

import math

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.evaluator import Evaluator

from resist_mm.evaluation import LossMetric
from tests.workers import run_workers


def samples(*losses):
    return [DetDataSample(metainfo={'loss': loss}) for loss in losses]


def test_is_the_mean_over_images_not_over_batches():
    evaluator = Evaluator([{'type': 'resist_mm.LossMetric'}])
    evaluator.process(samples(1.0, 2.0, 3.0))
    evaluator.process(samples(10.0))
    assert evaluator.evaluate(4) == {'test/loss': 4.0}


def test_starts_anew_after_each_evaluation():
    metric = LossMetric()
    metric.process(None, [{'loss': 8.0}])
    assert metric.evaluate(1) == {'test/loss': 8.0}
    metric.process(None, [{'loss': 2.0}])
    assert metric.evaluate(1) == {'test/loss': 2.0}


def test_images_that_the_sampler_repeated_do_not_count():
    metric = LossMetric()
    metric.process(None, [{'loss': 1.0}, {'loss': 3.0}, {'loss': 100.0}])
    assert metric.evaluate(2) == {'test/loss': 2.0}


def test_prefix_and_no_warning_that_it_is_missing(monkeypatch):
    messages = []
    monkeypatch.setattr('mmengine.evaluator.metric.print_log', lambda message, **_: messages.append(message))
    LossMetric()
    assert messages == []
    metric = LossMetric(prefix='voc')
    metric.process(None, [{'loss': 8.0}])
    assert metric.evaluate(1) == {'voc/loss': 8.0}


def test_a_diverged_model_is_not_hidden():
    metric = LossMetric()
    metric.process(None, [{'loss': 1.0}, {'loss': float('nan')}])
    assert math.isnan(metric.evaluate(2)['test/loss'])


def test_missing_loss_names_the_config_key():
    with pytest.raises(ValueError, match=r'model\.test_cfg\.with_loss=True'):
        Evaluator([LossMetric()]).process([DetDataSample(metainfo={'img_id': 1})])


def test_empty_data_set():
    with pytest.raises(ValueError, match='empty'):
        LossMetric().evaluate(0)


def _evaluate_on_worker(directory):
    metric = LossMetric(collect_dir=f'{directory}/collect')
    # Five images: the sampler gives each worker three and repeats the first.
    losses = [0.0, 2.0, 4.0] if torch.distributed.get_rank() == 0 else [1.0, 3.0, 0.0]
    metric.process(None, [{'loss': loss} for loss in losses])
    return metric.evaluate(5)


def test_all_workers_get_the_mean_over_all_workers(tmp_path):
    assert run_workers(_evaluate_on_worker, 2, tmp_path) == [{'test/loss': 2.0}] * 2
