"""ExactResumeHook: a resumed run is the same run; what cannot be the same is said or refused."""

from __future__ import annotations

import itertools
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import DataLoader

from resist_mm.checkpoint import read_checkpoint
from resist_mm.datasets.order import DataOrder, SeededIndex
from resist_mm.hooks import CannotResume, ExactResumeHook, ResISTHook
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers

from .saving import Linear

_RUNS = itertools.count()
SGD = dict(type='SGD', lr=0.05, momentum=0.9)
ADAM = dict(type='Adam', lr=0.01)
COSINE = dict(type='CosineAnnealingLR', by_epoch=True, convert_to_iter_based=True)


class Crops(ToyData):
    """Cut at random, with the numbers of each of the three generators."""

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image, label = super().__getitem__(index)
        shifts = random.randrange(4), int(np.random.randint(4))
        return image.roll(shifts, (1, 2)) + 0.1 * torch.randn(image.shape), label


class Dropped(ToyModel):
    """With dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Dropout(0.3), self.head)

    def init_weights(self) -> None:
        torch.manual_seed(0)
        for p in self.parameters():
            nn.init.normal_(p, std=0.2)

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        if mode == 'predict':
            torch.randn(3), np.random.rand(), random.random()  # as test-time augmentation does
        return super().forward(inputs, labels, mode)


class Never(BaseMetric):
    """Measures nothing."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(0)

    def compute_metrics(self, results: list) -> dict:
        return dict(score=0.0)


class Notes(Hook):
    """Keeps learning rates, momenta and what is logged."""

    priority = 'VERY_HIGH'

    def __init__(self) -> None:
        self.rates: list[tuple[int, float, float]] = []
        self.lines: list[str] = []

    def before_run(self, runner: Runner) -> None:
        for level in ('info', 'warning'):
            setattr(runner.logger, level, lambda message, *args: self.lines.append(str(message)))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        group = runner.optim_wrapper.optimizer.param_groups[0]
        self.rates.append((runner.iter, group['lr'], group.get('momentum', group.get('betas', (0,))[0])))

    def changes(self) -> list[str]:
        return [line for line in self.lines if line.startswith('Resumed with changes')]


def _loader(images: int, loaders: int, batch_size: int = 2, **sampler: Any) -> dict:
    return dict(
        batch_size=batch_size,
        num_workers=loaders,
        sampler={**dict(type='DefaultSampler', shuffle=True), **sampler},
        dataset=Crops(images),
        collate_fn=dict(type='default_collate'),
    )


def _run(
    work_dir: str,
    resume: str | None,
    train_cfg: dict,
    loader: dict,
    interval: int,
    optimizer: dict = SGD,
    saves_by_epoch: bool | None = None,
    seed: int | None = 7,
    hooks: tuple = (),
    scheduler: dict | list = COSINE,
    best: str | None = None,
    **rounds: Any,
) -> Runner:
    folder = Path(work_dir) / f'run{next(_RUNS)}'
    folder.mkdir(parents=True, exist_ok=True)
    by_epoch = train_cfg['by_epoch'] if saves_by_epoch is None else saves_by_epoch
    runner = toy_runner(
        folder,
        [ResISTHook(local_iters=2, min_blocks=2, **rounds), *hooks, dict(type='resist_mm.ExactResumeHook')],
        model=Dropped(),
        train_cfg=train_cfg,
        train_dataloader=loader,
        val_dataloader=_loader(4, 0, shuffle=False),
        val_cfg=dict(),
        val_evaluator=Evaluator([Never()]),
        optim_wrapper=dict(optimizer=optimizer),
        param_scheduler=scheduler,
        default_hooks=dict(
            logger=None,
            checkpoint=dict(
                type='CheckpointHook', interval=interval, by_epoch=by_epoch, save_best=best, rule='greater'
            ),
        ),
        randomness=dict(seed=seed),
        load_from=resume,
        resume=resume is not None,
        experiment_name=f'exact{next(_RUNS)}',
    )
    runner.train()
    return runner


EPOCHS: dict[str, Any] = dict(train_cfg=dict(by_epoch=True, max_epochs=2), interval=1)
ITERS: dict[str, Any] = dict(train_cfg=dict(by_epoch=False, max_iters=9, val_interval=5), interval=3)
INFINITE = dict(type='InfiniteSampler')
# with a new best score mmengine saves once more, after validation, while each worker has a residual
COMPRESSED: dict[str, Any] = dict(
    train_cfg=dict(by_epoch=False, max_iters=9, val_interval=4),
    interval=3,
    best='score',
    codec=dict(type='changes', bits=2, exact_whole=False),
    outer=dict(type='SGD', lr=0.8, momentum=0.5, nesterov=True, blocks=True),
)
# name: how the run is, loader processes of the first run, sampler, the checkpoint that is resumed. An epoch has 5
# iterations: rounds of 2 are cut, and norms are recalibrated with the last 8 batches, of two epochs
CASES: dict[str, tuple[dict, int, dict, str]] = {
    'epochs, 1': (dict(EPOCHS, momentum_restart_interval=1), 2, {}, 'epoch_1.pth'),
    'epochs, own': (dict(EPOCHS, momentum_restart_interval=3, keep_shared_momentum=True), 0, {}, 'epoch_1.pth'),
    'epochs, 2': (dict(EPOCHS, momentum_restart_interval=2), 0, {}, 'epoch_1.pth'),
    'epochs, never': (dict(EPOCHS, momentum_restart_interval=None, seed=None), 0, {}, 'epoch_1.pth'),
    'epochs, Adam': (dict(EPOCHS, momentum_restart_interval=None, optimizer=ADAM), 0, {}, 'epoch_1.pth'),
    'epochs, inside': (dict(EPOCHS, interval=3, saves_by_epoch=False), 0, {}, 'iter_6.pth'),
    'epochs, at their end': (dict(EPOCHS, interval=5, saves_by_epoch=False), 0, {}, 'iter_5.pth'),
    'iterations, 1': (dict(ITERS, momentum_restart_interval=1), 0, INFINITE, 'iter_6.pth'),
    'iterations, 2': (dict(ITERS, momentum_restart_interval=2), 2, INFINITE, 'iter_3.pth'),
    'iterations, compressed': (COMPRESSED, 0, INFINITE, 'iter_4.pth'),
    'iterations, never': (dict(ITERS, momentum_restart_interval=None), 0, INFINITE, 'iter_6.pth'),
}


def _undisturbed(work_dir: str) -> dict[str, tuple[str, dict]]:
    results = {}
    for name, (how, loaders, sampler, _) in CASES.items():
        runner = _run(work_dir, None, loader=_loader(20, loaders, **sampler), **how)
        results[name] = (runner.work_dir, runner.model.module.state_dict())
    return results


def _resumed(work_dir: str, folders: dict[str, str]) -> dict[str, tuple[dict, list[str]]]:
    results = {}
    for name, (how, _, sampler, checkpoint) in CASES.items():
        notes = Notes()
        loader = _loader(20, 0, **sampler)
        runner = _run(work_dir, f'{folders[name]}/{checkpoint}', loader=loader, hooks=(notes,), **how)
        results[name] = (runner.model.module.state_dict(), notes.changes())
    return results


def test_a_resumed_run_is_the_same_run(tmp_path):
    first, second = tmp_path / 'first', tmp_path / 'second'
    first.mkdir(), second.mkdir()
    undisturbed = run_workers(_undisturbed, 2, str(first))
    folders = {name: folder for name, (folder, _) in undisturbed[0].items()}
    different = []
    for before, after in zip(undisturbed, run_workers(_resumed, 2, str(second), folders), strict=True):
        for name, (_, weights) in before.items():
            resumed, changes = after[name]
            assert not changes, name
            different += [(name, key) for key, value in weights.items() if not torch.equal(value, resumed[key])]
    assert not different


SCHEDULES: list[dict] = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', by_epoch=True, begin=1, eta_min=0.001, convert_to_iter_based=True),
    dict(type='MultiStepMomentum', by_epoch=True, milestones=[1, 2], gamma=0.5),
]


def _first_half(work_dir: str, by_epoch: bool) -> str:
    how = dict(EPOCHS, train_cfg=dict(by_epoch=True, max_epochs=3), scheduler=SCHEDULES)
    if not by_epoch:
        how.update(interval=7, saves_by_epoch=False)
    return _run(work_dir, None, loader=_loader(20, 0), **how).work_dir


@pytest.mark.parametrize(
    ('by_epoch', 'checkpoint', 'iteration'), [(True, 'epoch_1.pth', 10), (False, 'iter_7.pth', 14)]
)
def test_with_other_workers_the_schedule_has_the_new_length(tmp_path, by_epoch, checkpoint, iteration):
    folder = run_workers(_first_half, 2, str(tmp_path / 'two'), by_epoch)[0]
    how = dict(EPOCHS, train_cfg=dict(by_epoch=True, max_epochs=3), loader=_loader(20, 0), scheduler=SCHEDULES)
    undisturbed, resumed = Notes(), Notes()
    _run(str(tmp_path), None, hooks=(undisturbed,), **how)
    runner = _run(str(tmp_path), f'{folder}/{checkpoint}', hooks=(resumed,), **how)
    assert runner.iter == 30  # of 10 iterations an epoch, with two workers 5
    assert resumed.rates == undisturbed.rates[iteration:]
    assert len({rate[1:] for rate in resumed.rates}) > 10
    (line,) = resumed.changes()
    for part in (
        'workers 2 -> 1; activation scale 0.5 -> 1; blocks a worker 3 -> 6; iterations an epoch 5 -> 10, so that '
        f'the run goes on at iteration {iteration}; ',
        'LinearLR (end 5 -> 10, total_iters 4 -> 9)',
        'random states are not carried over',
    ):
        assert part in line


class Plain:
    """Runs of one process without rounds, which take no time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, max_epochs: int, scheduler: list[dict], resume: str | None = None, **options: Any) -> Any:
        notes = Notes()
        torch.manual_seed(0)
        self.folder.mkdir(exist_ok=True)
        runner = toy_runner(
            self.folder,
            [notes, ExactResumeHook()],
            Linear(),
            train_cfg=options.pop('train_cfg', dict(by_epoch=True, max_epochs=max_epochs)),
            train_dataloader=_loader(16, 0, **options.pop('loader', {})),
            param_scheduler=scheduler,
            default_hooks=dict(logger=None, checkpoint=dict(type='CheckpointHook', interval=2)),
            load_from=resume and str(self.folder / resume),
            resume=resume is not None,
            experiment_name=f'plain{next(_RUNS)}',
            **options,
        )
        runner.train()
        return runner, notes


def test_raised_max_epochs_move_the_end(tmp_path):
    run = Plain(tmp_path)
    poly: list[dict] = [dict(type='PolyLR', power=1, by_epoch=True), dict(type='ExponentialLR', gamma=0.9)]
    run(4, poly)
    _, undisturbed = Plain(tmp_path / 'undisturbed')(8, poly)
    _, same = run(4, poly, 'epoch_2.pth')
    runner, resumed = run(8, poly, 'epoch_2.pth')
    assert not same.changes()
    assert resumed.rates == undisturbed.rates[16:] and runner.iter == 64
    assert 'PolyLR (end 4 -> 8, total_iters 3 -> 7); ExponentialLR (end 4 -> 8)' in resumed.changes()[0]


def test_a_changed_rate_and_schedule_are_those_of_the_config(tmp_path):
    run = Plain(tmp_path)
    run(4, [dict(type='StepLR', step_size=1)])
    optimizer = dict(optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.2, momentum=0.9)))
    other: list[dict] = [
        dict(type='OneCycleLR', eta_max=0.3, by_epoch=True, convert_to_iter_based=True, total_steps=4)
    ]
    _, undisturbed = Plain(tmp_path / 'undisturbed')(4, other, **optimizer)
    _, resumed = run(4, other, 'epoch_2.pth', **optimizer)
    assert resumed.rates == undisturbed.rates[16:]
    assert 'OneCycleLR' in resumed.changes()[0]


def test_a_schedule_by_measurements_cannot_be_replayed(tmp_path):
    run = Plain(tmp_path)
    measured = dict(type='ReduceOnPlateauLR', monitor='score')
    warmup = dict(type='LinearLR', start_factor=0.1, by_epoch=True, end=1, convert_to_iter_based=True)
    validation = dict(
        val_dataloader=_loader(4, 0, shuffle=False), val_cfg=dict(), val_evaluator=Evaluator([Never(prefix='')])
    )
    run(2, [measured, warmup], **validation)
    runner, resumed = run(4, [measured, warmup], 'epoch_2.pth', **validation)
    assert runner.param_schedulers[0].end == 4 and not resumed.changes()
    with pytest.raises(CannotResume, match=r'ReduceOnPlateauLR depends on .*LinearLR \(end 8 -> 4.*load_from'):
        run(4, [measured, warmup], 'epoch_2.pth', loader=dict(batch_size=4), **validation)


def test_another_kind_of_loop_is_refused(tmp_path):
    run = Plain(tmp_path)
    run(2, [])
    with pytest.raises(CannotResume, match=r'run by epochs.*set train_cfg\.by_epoch=True'):
        run(0, [], 'epoch_2.pth', train_cfg=dict(by_epoch=False, max_iters=20))


def test_states_load_without_running_code(tmp_path):
    Plain(tmp_path)(2, [])
    states = read_checkpoint(tmp_path / 'epoch_2.pth', 'cpu')['message_hub']['runtime_info']['resist_mm_resume']
    assert states['iter'] == 16 and len(states['states']) == 1


def test_a_loader_begins_anywhere_without_loading():
    class Listing(Crops):
        loaded: list[int] = []

        def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
            self.loaded.append(int(index))
            return super().__getitem__(index)

    def order() -> tuple[DataOrder, list]:
        loader = DataLoader(Listing(10), batch_size=3, shuffle=False)
        Listing.loaded.clear()
        return DataOrder(loader, 3, 0), Listing.loaded

    whole, _ = order()
    passes = [list(whole.loader) for _ in range(2)]
    for begun in (lambda o: o.go_to_epoch(1, 2, 5), lambda o: o.go_to_iter(6, 5)):
        later, loaded = order()
        recent = begun(later)
        assert recent == [[3, 4, 5], [6, 7, 8], [9], [0, 1, 2], [3, 4, 5]] and not loaded
        for left, right in zip([*passes[1][2:]], later.loader, strict=True):
            assert torch.equal(left[0], right[0])
        assert loaded == [6, 7, 8, 9]
        assert torch.equal(later.load(recent[:1])[0][0], passes[0][1][0])
    assert not torch.equal(passes[0][0][0], passes[1][0][0])  # another augmentation in each pass


def test_a_seeded_data_set_is_pickled_as_itself():
    data = Crops(4)
    DataOrder(DataLoader(data), 3, 0)
    copied = pickle.loads(pickle.dumps(data))
    loaded = DataLoader(copied)
    assert type(copied).__mro__[1:] == type(data).__mro__[1:] and len(loaded) == 4
    state = torch.get_rng_state()
    index = SeededIndex(1)
    index.key = (5, 1)
    assert torch.equal(copied[index][0], data[pickle.loads(pickle.dumps(index))][0])
    assert torch.equal(torch.get_rng_state(), state)
