"""LocalModel: no collective in a training step of real gloo processes, and nothing else changes."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from mmdet.models.dense_heads import FCOSHead
from mmdet.structures import DetDataSample
from mmdet.utils import reduce_mean
from mmengine.dist import all_reduce, get_world_size
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import MODEL_WRAPPERS, DefaultScope
from mmengine.runner import Runner
from mmengine.structures import InstanceData
from torch import nn

import resist_mm
from resist_mm.models import LocalModel
from resist_mm.models.wrappers import not_distributed
from tests.workers import run_workers


class Detector(BaseModel):
    """A head of mmdet that averages the number of positives over workers, by ``reduce_mean``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.head = FCOSHead(
            num_classes=2,
            in_channels=32,
            feat_channels=32,
            stacked_convs=1,
            strides=[8],
            regress_ranges=((-1, 1e8),),
        )

    def forward(self, inputs, data_samples, mode='tensor'):
        assert mode == 'loss'
        return self.head.loss([inputs], data_samples)


class Counting(BaseModel):
    """A loss that asks both libraries for a sum over workers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs, mode='tensor'):
        mean = reduce_mean(inputs)
        total = inputs.clone()
        all_reduce(total)
        return dict(loss=self.weight * mean, total=total, world_size=torch.tensor([float(get_world_size())]))


def detector_data(rank):
    """One image; its worker's rank decides how many positives there are."""
    size = 16.0 + 40.0 * rank
    sample = DetDataSample(
        metainfo=dict(img_shape=(64, 64)),
        gt_instances=InstanceData(bboxes=torch.tensor([[0.0, 0.0, size, size]]), labels=torch.tensor([1])),
    )
    features = torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(rank))
    return dict(inputs=features, data_samples=[sample])


def train_step(model, data):
    """One step; what it logs."""
    trained = model.module if isinstance(model, LocalModel) else model
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
    return {name: value.item() for name, value in model.train_step(data, OptimWrapper(optimizer)).items()}


COLLECTIVES = (
    'allreduce',
    'allreduce_coalesced',
    'allgather',
    'broadcast',
    'reduce',
    'barrier',
    'alltoall',
    'send',
)


class Collectives:
    """Counts the calls that reach torch's process group, and asks the group for its own count."""

    def __enter__(self):
        self.calls = 0
        self.before = dist.group.WORLD._get_sequence_number_for_group()
        group = torch._C._distributed_c10d.ProcessGroup
        self.patches = [patch.object(group, name, self._counting(getattr(group, name))) for name in COLLECTIVES]
        for p in self.patches:
            p.start()
        return self

    def __exit__(self, *_):
        for p in self.patches:
            p.stop()
        self.numbered = dist.group.WORLD._get_sequence_number_for_group() - self.before

    def _counting(self, method):
        def counting(*args, **kwargs):
            self.calls += 1
            return method(*args, **kwargs)

        return counting


def train_with_and_without():
    """In every worker: steps of both models, bare and wrapped; what they log, and the collectives."""
    rank = dist.get_rank()
    result = dict()
    for name, model, data in (
        ('detector', Detector(), detector_data(rank)),
        ('counting', Counting(), dict(inputs=torch.tensor([float(rank)]))),
    ):
        with Collectives() as bare:
            bare_logs = train_step(model, data)
        wrapped_model = LocalModel(type(model)())
        with Collectives() as wrapped:
            wrapped_logs = train_step(wrapped_model, data)
            if not wrapped.calls:  # else this would wait for the worker that takes no further step
                for _ in range(rank):
                    train_step(wrapped_model, data)
        result[name] = SimpleNamespace(
            bare=(bare.calls, bare.numbered),
            wrapped=(wrapped.calls, wrapped.numbered),
            bare_logs=bare_logs,
            wrapped_logs=wrapped_logs,
        )
    cfg = dict(type='resist_mm.LocalModel')
    with DefaultScope.overwrite_default_scope('mmdet'):
        wrapped_by_runner = Runner.wrap_model(SimpleNamespace(distributed=True, cfg={}), cfg, Counting())
    return result, dist.is_initialized(), type(wrapped_by_runner).__name__


@pytest.fixture(scope='module')
def trained():
    """The results of two workers."""
    return run_workers(train_with_and_without, 2)


@pytest.mark.parametrize(('name', 'at_least'), [('detector', 1), ('counting', 2)])
def test_a_training_step_does_no_collective(trained, name, at_least):
    for result, *_ in trained:
        calls, numbered = result[name].bare
        assert calls >= at_least and numbered >= at_least, 'without the wrapper there are some'
        assert result[name].wrapped == (0, 0)


def test_a_training_step_computes_what_a_worker_alone_would(trained):
    for rank, (result, *_) in enumerate(trained):
        alone = train_step(Detector(), detector_data(rank))
        assert result['detector'].wrapped_logs == pytest.approx(alone)
        assert result['detector'].bare_logs != pytest.approx(alone, rel=1e-3), 'the positives of the other count'
        alone = train_step(Counting(), dict(inputs=torch.tensor([float(rank)])))
        assert result['counting'].wrapped_logs == alone
        assert result['counting'].wrapped_logs['world_size'] == 1
        assert result['counting'].bare_logs['world_size'] == 2


def test_afterwards_the_process_is_distributed_again(trained):
    assert [initialized for _, initialized, _ in trained] == [True, True]


def test_the_runner_wraps_with_it_in_the_scope_of_mmdet(trained):
    assert [name for *_, name in trained] == ['LocalModel', 'LocalModel']


def test_builds_by_name_in_the_scope_of_mmdet_and_is_a_model_wrapper():
    model = nn.Linear(1, 1)
    with DefaultScope.overwrite_default_scope('mmdet'):
        wrapper = MODEL_WRAPPERS.build(dict(type='resist_mm.LocalModel', module=model))
        assert is_model_wrapper(wrapper)
    assert type(wrapper) is LocalModel is resist_mm.models.LocalModel
    assert wrapper.module is model
    assert is_model_wrapper(wrapper)
    assert not is_model_wrapper(model)


def test_is_initialized_is_put_back_also_after_an_exception():
    class Failing(nn.Module):
        def train_step(self, data, optim_wrapper):
            assert not dist.is_initialized()
            raise ZeroDivisionError

    with patch.object(dist, 'is_initialized', lambda: True):
        inside = dist.is_initialized
        with pytest.raises(ZeroDivisionError):
            LocalModel(Failing()).train_step(None, None)
        assert dist.is_initialized is inside
        with not_distributed():
            with not_distributed():
                assert not dist.is_initialized()
            assert not dist.is_initialized()
        assert dist.is_initialized is inside


def test_other_steps_and_calls_go_to_the_model_in_a_distributed_process():
    class Recording(nn.Module):
        def val_step(self, data):
            return ['val', data, dist.is_initialized()]

        def test_step(self, data):
            return ['test', data, dist.is_initialized()]

        def forward(self, *args, **kwargs):
            return args, kwargs

    wrapper = LocalModel(Recording())
    with patch.object(dist, 'is_initialized', lambda: True):
        assert wrapper.val_step(1) == ['val', 1, True]
        assert wrapper.test_step(2) == ['test', 2, True]
        assert wrapper(3, mode='loss') == ((3,), dict(mode='loss'))


def test_names_of_the_wrapped_weights_are_those_of_a_wrapper():
    assert list(LocalModel(nn.Linear(1, 1)).state_dict()) == ['module.weight', 'module.bias']
