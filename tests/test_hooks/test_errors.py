"""Wrong configs stop before training, with an error that says what to change."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from mmengine.hooks import EMAHook
from mmengine.model import MMDistributedDataParallel
from mmengine.runner import Runner
from torch import Tensor, nn

from resist_mm.hooks import LocalSGDHook, ResISTHook, RoundHook
from resist_mm.models.partition import partition
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers


class PlainModel(ToyModel):
    """Has no partitioned stage."""

    def __init__(self) -> None:
        super().__init__(partition_stages=())


@pytest.mark.parametrize('hook', [ResISTHook, LocalSGDHook])
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(local_iters=0), r'Hook\.local_iters must be an integer of at least 1, got 0'),
        (dict(local_iters=2.5), r'Hook\.local_iters .* got 2\.5'),
        (dict(momentum_restart_interval=0), r'Hook\.momentum_restart_interval .* got 0'),
        (dict(bn='batch'), r"Hook\.bn must be 'recalibrate' or 'average', got 'batch'"),
        (dict(bn_batches=-1), r'Hook\.bn_batches .* got -1'),
        (dict(bad_numbers='ignore'), r"Hook\.bad_numbers must be 'stop' or 'drop', got 'ignore'"),
        (dict(max_bad_rounds=0), r'Hook\.max_bad_rounds must be an integer of at least 1, got 0'),
        (dict(max_loss_ratio=1), r'Hook\.max_loss_ratio must be None or a number above 1, got 1'),
        (dict(max_loss_ratio='2'), r"Hook\.max_loss_ratio .* got '2'"),
    ],
)
def test_arguments_out_of_range(hook, arguments, message):
    with pytest.raises(ValueError, match=message):
        hook(**arguments)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(min_blocks=-1), r'min_blocks .* got -1'),
        (dict(warmup_rounds=-1), r'warmup_rounds .* got -1'),
        (dict(activation_scale=0), r'activation_scale must be a number above 0 and at most 1, got 0'),
        (dict(activation_scale=True), r'activation_scale must be a number .* got True'),
    ],
)
def test_arguments_of_resist_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResISTHook(**arguments)


def test_a_model_without_a_partitioned_stage(tmp_path):
    with pytest.raises(
        ValueError, match=r'PartitionableResNet.*for model\.backbone, .*resist_mm\.Partitioned.* --resist'
    ):
        toy_runner(tmp_path, [ResISTHook()], model=PlainModel()).train()


class OfAnyBlocks(ToyModel):
    """Its chain has blocks of classes that no adapter knows."""

    def __init__(self, block: type[nn.Module]) -> None:
        super().__init__(partition_stages=())
        self.chain = nn.Sequential(*(block(3, 3, 3, padding=1) for _ in range(4)))
        partition(self, 'chain')

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        return super().forward(self.chain(inputs), labels, mode)


class Conv(nn.Conv2d):
    """Keeps the shape, and notes its calls."""

    calls: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.calls.append(torch.is_grad_enabled())
        return super().forward(x)


class Strided(Conv):
    """Changes it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., ::2]


def test_blocks_of_any_class_are_tried_before_training(tmp_path):
    Conv.calls.clear()
    with pytest.raises(
        ValueError, match=r'chain\[1\] \(Strided\) cannot be partitioned: it maps shape \(2, 3, 8, 4\)'
    ):
        toy_runner(tmp_path, [ResISTHook(min_blocks=1)], model=OfAnyBlocks(Strided)).train()
    assert Conv.calls == [False, False], 'nothing has been trained'
    model = OfAnyBlocks(Conv)
    toy_runner(tmp_path, [ResISTHook(min_blocks=1, local_iters=4)], model=model, log_level='INFO').train()
    assert Conv.calls[:2] == [False, False] and True in Conv.calls
    log = next(path.read_text() for path in sorted(tmp_path.rglob('*.log')) if 'Round 0' in path.read_text())
    assert 'Conv: no adapter knows where residual branches end' in log and 'chain[1]' in log


def test_local_sgd_takes_any_model(tmp_path):
    toy_runner(tmp_path, [LocalSGDHook(local_iters=3)], model=PlainModel()).train()


def test_more_min_blocks_than_blocks(tmp_path):
    with pytest.raises(ValueError, match='min_blocks=7 asks for more blocks than the 6'):
        toy_runner(tmp_path, [ResISTHook(min_blocks=7)]).train()


def test_a_frozen_partitioned_stage(tmp_path):
    model = ToyModel(frozen_stages=3)
    with pytest.raises(ValueError, match='frozen_stages'):
        toy_runner(tmp_path, [ResISTHook()], model=model).train()


class KeepsSomethingElse(EMAHook):
    """Averages in a way of its own."""

    def before_run(self, runner: Runner) -> None:
        self.ema_model = nn.Linear(1, 1)


def test_a_moving_average_that_is_none_of_mmengine_s(tmp_path):
    with pytest.raises(
        ValueError, match=r'KeepsSomethingElse keeps Linear .* which lacks .* choose another ema_type'
    ):
        toy_runner(tmp_path, [KeepsSomethingElse(), ResISTHook()]).train()


def _error_of(runner: Runner) -> str:
    try:
        runner.train()
    except (ValueError, RuntimeError) as error:
        return str(error)
    return 'trained'


def _wrong(work_dir: str) -> dict[str, str]:
    rank = dist.get_rank()
    ddp = MMDistributedDataParallel(ToyModel(), device_ids=None, broadcast_buffers=False)
    sync_bn = nn.SyncBatchNorm.convert_sync_batchnorm(ToyModel())
    other_data: dict[str, Any] = dict(
        batch_size=4, dataset=ToyData(32 + 16 * rank), sampler=dict(type='DefaultSampler', shuffle=True)
    )
    return {
        name: _error_of(toy_runner(work_dir, [hook], **overrides))
        for name, hook, overrides in (
            ('ddp', ResISTHook(), dict(model=ddp)),
            ('sync_bn', ResISTHook(), dict(model=sync_bn)),
            ('seed', ResISTHook(seed=rank), {}),
            ('local_iters', LocalSGDHook(local_iters=5 + rank), {}),
            ('protocol', RoundHook(dict(type='ResIST', min_blocks=2 + rank)), {}),
            ('codec', LocalSGDHook(codec=dict(type='quantize', bits=4 + rank)), {}),
            ('bn', LocalSGDHook(bn=('average', 'recalibrate')[rank]), {}),
            ('momentum', LocalSGDHook(momentum_restart_interval=(None, 2)[rank]), {}),
            ('data', ResISTHook(), dict(train_dataloader=other_data)),
            ('diff_rank_seed', ResISTHook(), dict(randomness=dict(seed=3, diff_rank_seed=True))),
        )
    }


def test_what_two_workers_cannot_do(tmp_path):
    for errors in run_workers(_wrong, 2, str(tmp_path)):
        assert "model_wrapper_cfg = dict(type='resist_mm.LocalModel')" in errors['ddp']
        assert "norm_cfg = dict(type='BN')" in errors['sync_bn']
        assert 'backbone.layer1.0.norm1' in errors['sync_bn']
        assert 'disagree on ResISTHook.seed (worker 0: 0, worker 1: 1)' in errors['seed']
        assert 'disagree on LocalSGDHook.local_iters (worker 0: 5, worker 1: 6)' in errors['local_iters']
        assert 'disagree on the length of train_dataloader (worker 0: 4, worker 1: 6)' in errors['data']
        assert errors['diff_rank_seed'] == 'trained'
        assert 'disagree on RoundHook.protocol (worker 0: ResIST(' in errors['protocol']
        assert 'min_blocks=2' in errors['protocol'] and 'min_blocks=3' in errors['protocol']
        assert 'disagree on LocalSGDHook.codec (worker 0: Quantize(bits=4, ' in errors['codec']
        assert "disagree on LocalSGDHook.bn (worker 0: 'average', worker 1: 'recalibrate')" in errors['bn']
        assert 'momentum_restart_interval (worker 0: None, worker 1: 2)' in errors['momentum']


@pytest.mark.parametrize(
    ('of_protocol', 'of_hook', 'expected'), [(5, None, 5), (5, 3, 3), (None, 3, 3), (None, None, 7)]
)
def test_the_seed_may_be_the_protocol_s(tmp_path, of_protocol, of_hook, expected):
    hook = RoundHook(dict(type='ResIST', min_blocks=2, seed=of_protocol), local_iters=4, seed=of_hook)
    toy_runner(tmp_path, [hook], train_cfg=dict(by_epoch=True, max_epochs=1)).train()
    assert hook.engine.assignment is None and hook.protocol.seed == expected
    assert hook.protocol.sampler.seed == hook.seed == expected


def _other_average(work_dir: str) -> str:
    class ResumesItsOwn(EMAHook):
        def before_train(self, runner: Runner) -> None:
            self.ema_model.steps.fill_(5)
            self.ema_model.module.head.bias.data.fill_(dist.get_rank())

    return _error_of(toy_runner(work_dir, [ResumesItsOwn(), ResISTHook()]))


def test_workers_that_resume_different_moving_averages(tmp_path):
    for error in run_workers(_other_average, 2, str(tmp_path)):
        assert 'disagree on the average of ResumesItsOwn (ExponentialMovingAverage) (digest)' in error


def _other_weights(work_dir: str) -> str:
    class LoadsItsOwn(ResISTHook):
        def before_train(self, runner: Runner) -> None:
            runner.model.module.head.bias.data.fill_(dist.get_rank())
            super().before_train(runner)

    return _error_of(toy_runner(work_dir, [LoadsItsOwn()]))


def test_workers_that_start_from_different_weights(tmp_path):
    for error in run_workers(_other_weights, 2, str(tmp_path)):
        assert 'disagree on the weights to start from' in error


def test_two_protocols(tmp_path):
    with pytest.raises(ValueError, match='custom_hooks has ResISTHook and LocalSGDHook'):
        toy_runner(tmp_path, [ResISTHook(), LocalSGDHook()]).train()


def test_an_optimizer_that_makes_its_state_in_advance(tmp_path):
    adagrad = dict(optimizer=dict(type='Adagrad', lr=0.01))
    with pytest.raises(ValueError, match=r'Adagrad creates its state .* such as SGD'):
        toy_runner(tmp_path, [ResISTHook()], optim_wrapper=adagrad).train()


class OwnStep(ToyModel):
    """Has a custom train_step."""

    def train_step(self, data: Any, optim_wrapper: Any) -> dict:
        return super().train_step(data, optim_wrapper)


def test_recalibrating_a_model_with_its_own_train_step(tmp_path):
    with pytest.raises(ValueError, match=r"OwnStep has a custom train_step .* set bn='average'"):
        toy_runner(tmp_path, [LocalSGDHook()], model=OwnStep()).train()
    toy_runner(tmp_path, [LocalSGDHook(bn='average')], model=OwnStep()).train()
