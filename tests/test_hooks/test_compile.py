"""mmengine's ``compile`` in a run in rounds: blocks are compiled one by one, with the same results."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from torch._dynamo.utils import counters

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.models import LocalModel
from resist_mm.models.compile_blocks import compile_blocks
from tests.test_hooks.test_whole_model import EvaluatedToyModel, ToyMetric
from tests.toy import ToyData, toy_runner
from tests.workers import run_workers

HOOKS = {
    'resist': dict(type=ResISTHook, min_blocks=2),
    'warm-up': dict(type=ResISTHook, min_blocks=2, warmup_rounds=3),
    'local-sgd': dict(type=LocalSGDHook),
}


class Watcher(Hook):
    """After every iteration: the loss, the depth, and the number of graphs so far."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.depths: list[int] = []
        self.graphs: list[int] = []

    def after_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        self.losses.append(float(outputs['loss']))
        self.depths.append(len(runner.model.module.backbone.layer3.partitioned_stage.held))
        self.graphs.append(counters['stats']['unique_graphs'])


def _train(work_dir: str, protocol: str, compile_cfg: dict | None) -> dict:
    """Twelve rounds of 2 iterations; the model is made whole for validation after every third of them."""
    torch._dynamo.reset()
    counters.clear()
    arguments = dict(HOOKS[protocol])
    hook, watcher, metric = arguments.pop('type')(local_iters=2, **arguments), Watcher(), ToyMetric()
    runner = toy_runner(
        work_dir,
        [hook, watcher],
        model=EvaluatedToyModel(),
        cfg=dict(compile=compile_cfg),
        train_cfg=dict(by_epoch=False, max_iters=24, val_interval=6),
        train_dataloader=dict(
            batch_size=4,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(),
            collate_fn=dict(type='default_collate'),
        ),
        val_dataloader=dict(
            batch_size=3,
            sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=ToyData(16),
            collate_fn=dict(type='default_collate'),
        ),
        val_cfg=dict(),
        val_evaluator=Evaluator([metric]),
    )
    runner.train()
    return dict(
        rounds=hook.round,
        graphs=watcher.graphs,
        breaks=sum(counters['graph_break'].values()),
        depths=watcher.depths,
        train_step='train_step' in vars(runner.model),
        losses=watcher.losses,
        logits=metric.logits,
        state=runner.model.module.state_dict(),
    )


# one graph for the first block of each of three stages, one for the other blocks of the partitioned one
@pytest.mark.parametrize(
    ('protocol', 'of_whole', 'of_all'), [('resist', 4, 4), ('warm-up', 4, 5), ('local-sgd', 4, 4)]
)
def test_twelve_rounds_need_few_graphs_and_train_as_without(tmp_path, protocol, of_whole, of_all):
    plain = run_workers(_train, 2, str(tmp_path), protocol, None)
    compiled = run_workers(_train, 2, str(tmp_path), protocol, dict(backend='eager'))
    for without, found in zip(plain, compiled, strict=True):
        assert found['rounds'] == 12
        assert found['graphs'] == [of_whole] * 6 + [of_all] * 18
        assert without['graphs'] == [0] * 24
        assert found['breaks'] == 0
        assert not found['train_step'], 'mmengine has compiled the whole of it'
        for key in ('losses', 'depths'):
            assert found[key] == without[key], key
        assert torch.equal(found['logits'], without['logits'])
        assert list(found['state']) == list(without['state'])
        for name, value in without['state'].items():
            assert torch.equal(found['state'][name], value), name
    if protocol == 'resist':
        assert set(compiled[0]['depths']) == {3}


def test_parameters_keep_their_names_within_the_wrapper():
    model = LocalModel(EvaluatedToyModel())
    names = list(model.state_dict())
    model.train_step = lambda *args: None
    assert compile_blocks(model, True) == 9
    assert list(model.state_dict()) == names
    assert 'train_step' not in vars(model)
