"""A worker whose numbers go bad in a run: training stops, or goes on as if it had not taken part in the round."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner import Runner

from resist_mm.hooks import LocalSGDHook, ResISTHook
from resist_mm.hooks.loss_watch import LossWatch
from resist_mm.partition import Assignment, PartitionSampler
from resist_mm.rounds import BadNumbers
from tests.test_hooks.averages import EMA, DoubleData, Recorder, copy_of, ema_hook_of, model_of, run_all
from tests.test_hooks.reference import simulate_with_average
from tests.toy import ToyData, ToyModel, toy_runner
from tests.workers import run_workers

LR, MOMENTUM, LOCAL_ITERS = 0.05, 0.9, 2
NAN, INF = float('nan'), float('inf')


class Spoil(Hook):
    """Puts a number into the batch of some workers, after it has been recorded.

    Args:
        when: By worker, the iterations.
        number: What every pixel becomes; or with 'scale', what the weights of the head are multiplied by.
    """

    priority = 'LOWEST'

    def __init__(self, when: dict[int, list[int]], number: float, scale: bool = False) -> None:
        self.when, self.number, self.scale = when, number, scale

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        if runner.iter not in self.when.get(dist.get_rank(), []):
            return
        if self.scale:
            model_of(runner).head.weight.data *= self.number
        else:
            data_batch[0] = torch.full_like(data_batch[0], self.number)


@OPTIM_WRAPPERS.register_module(force=True)
class BF16Wrapper(OptimWrapper):
    """Autocast to bfloat16 on a CPU; mmengine's AmpOptimWrapper needs an accelerator."""

    def optim_context(self, model: torch.nn.Module) -> Any:
        return torch.autocast('cpu', torch.bfloat16)


def _options(iters: int, **overrides: Any) -> dict:
    return dict(
        train_cfg=dict(by_epoch=False, max_iters=iters),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=DoubleData(64),
            collate_fn=dict(type='default_collate'),
        ),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=LR, momentum=MOMENTUM)),
        **overrides,
    )


def _train(work_dir: str, hook: dict, spoil: tuple, iters: int = 6, ema: bool = False, **overrides: Any) -> dict:
    hook = dict(hook)
    made = (LocalSGDHook if hook.pop('local_sgd', False) else ResISTHook)(local_iters=LOCAL_ITERS, **hook)
    recorder = Recorder()
    hooks = [recorder, *([dict(EMA)] if ema else []), made, Spoil(*spoil)]
    Path(work_dir).mkdir(exist_ok=True, parents=True)
    dist.barrier()
    options = {**_options(iters), 'log_level': 'INFO', **overrides}
    model = ToyModel() if options['optim_wrapper'].get('type') == 'BF16Wrapper' else ToyModel().double()
    runner = toy_runner(work_dir, hooks, model, **options)
    error = ''
    try:
        runner.train()
    except BadNumbers as raised:
        error = str(raised)
    scalars = runner.message_hub.log_scalars
    return dict(
        error=error,
        state=copy_of(model_of(runner).state_dict()),
        average=copy_of(ema_hook_of(runner).ema_model.module.state_dict()) if ema else {},
        start=recorder.start,
        batches=recorder.batches,
        seed=made.seed,
        count=made.engine.bad_rounds.count,
        logged='train/bad_rounds' in scalars and scalars['train/bad_rounds'].current(),
    )


# workers, arguments of the hook, when which worker gets bad batches, the number in them, who is bad in which round
DROPPED: dict[str, tuple[int, dict, dict, float, dict]] = {
    'sharing': (4, dict(min_blocks=4), {1: [2]}, NAN, {1: [1]}),
    'sole holders, two bad': (3, dict(min_blocks=0), {0: [1], 2: [0]}, INF, {0: [0, 2]}),
    'sole holder, the last round': (2, dict(min_blocks=3), {1: [5]}, NAN, {2: [1]}),
    'local SGD': (3, dict(local_sgd=True), {2: [3]}, INF, {1: [2]}),
    'local SGD, the last round': (2, dict(local_sgd=True), {0: [4]}, NAN, {2: [0]}),
}


def test_dropped_rounds_equal_a_simulation_in_one_process(tmp_path):
    for num_workers in (2, 3, 4):
        cases = [
            (name, case, keep_momentum)
            for name, case in DROPPED.items()
            for keep_momentum in (False, True)
            if case[0] == num_workers
        ]
        calls = []
        for name, (_, hook, when, number, _), keep_momentum in cases:
            options = dict(
                bad_numbers='drop',
                momentum_restart_interval=None if keep_momentum else 1,
                bn='average' if keep_momentum else 'recalibrate',
            )
            work_dir = str(tmp_path / f'{name}, {keep_momentum}')
            calls.append((_train, (work_dir, {**hook, **options}, (when, number), 6, True)))
        for (name, case, keep_momentum), results in zip(cases, run_all(num_workers, calls), strict=True):
            _compare(name, case, results, keep_momentum)


def _compare(name: str, case: tuple, results: list[dict], keep_momentum: bool) -> None:
    num_workers, hook, _, _, bad = case
    sampler = PartitionSampler(6, num_workers, hook.get('min_blocks'), results[0]['seed'])
    full = Assignment.full(num_workers, 6)
    expected, average = simulate_with_average(
        copy.deepcopy(results[0]['start']),
        [r['batches'] for r in results],
        [full if hook.get('local_sgd') else sampler.sample(index) for index in range(3)],
        LOCAL_ITERS,
        LR,
        MOMENTUM,
        keep_momentum,
        rate=lambda it: EMA['momentum'] if it else 1.0,
        bad=bad,
    )
    for result in results:
        assert result['error'] == '' and result['count'] == result['logged'] == 1, name
        assert all(value.isfinite().all() for value in result['state'].values()), name
        for key, value in result['state'].items():
            assert torch.equal(value, results[0]['state'][key]), f'{name}: {key}'
            if key in expected:
                for of, found, should_be in (
                    ('weights', value, expected[key]),
                    ('average', result['average'][key], average[key]),
                ):
                    off = (found - should_be).abs().max()
                    assert off <= 1e-9, f'{name}: {of} of {key} off by {off}'
    assert any((expected[key] - results[0]['start'][key]).abs().max() > 1e-2 for key in expected), name


def test_under_amp(tmp_path):
    data = {**_options(6)['train_dataloader'], 'dataset': ToyData(64)}
    wrapper = dict(type='BF16Wrapper', optimizer=dict(type='SGD', lr=LR, momentum=MOMENTUM))
    bf16 = dict(optim_wrapper=wrapper, train_dataloader=data)
    hook = dict(min_blocks=3, bad_numbers='drop', momentum_restart_interval=None)
    for result in run_workers(_train_amp, 2, str(tmp_path), hook, bf16):
        assert result['error'] == '' and result['count'] == 1
        assert all(value.isfinite().all() for value in result['state'].values())


def _train_amp(work_dir: str, hook: dict, overrides: dict) -> dict:
    return _train(work_dir, hook, ({1: [3]}, NAN), **overrides)


CHECKPOINTS = dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2))


def _stop(work_dir: str, hook: dict) -> dict:
    return _train(work_dir, hook, ({1: [3]}, NAN), default_hooks=CHECKPOINTS)


def test_by_default_training_ends_and_the_last_checkpoint_stays(tmp_path):
    hooks = {tmp_path / 'resist': dict(min_blocks=3), tmp_path / 'local_sgd': dict(local_sgd=True)}
    of_hooks = run_all(2, [(_stop, (str(folder), hook)) for folder, hook in hooks.items()])
    for folder, results in zip(hooks, of_hooks, strict=True):
        errors = {result['error'] for result in results}
        assert len(errors) == 1 and errors.pop().startswith('round 1: worker 1: NaN in backbone.')
        assert [path.name for path in folder.glob('*.pth')] == ['iter_2.pth']
        checkpoint = torch.load(folder / 'iter_2.pth', weights_only=False)
        assert all(value.isfinite().all() for value in checkpoint['state_dict'].values())
        assert all(not result['logged'] for result in results)


def test_the_log_says_who_was_left_out_when(tmp_path):
    hook = dict(local_sgd=True, bad_numbers='drop', max_bad_rounds=2)
    results = run_workers(_train, 2, str(tmp_path), hook, ({1: [2, 6, 8]}, NAN), 12)
    assert {result['error'].split('. Training stops: ')[1][:24] for result in results} == {
        'the last 2 rounds were b'
    }
    assert [result['count'] for result in results] == [2, 2]
    log = '\n'.join(path.read_text() for path in sorted(tmp_path.rglob('*.log')))
    assert 'Round 1 goes on without what is bad: worker 1: NaN in' in log
    assert 'Bad rounds so far: 2, of which 1 in a row (max_bad_rounds=2)' in log


def _loss(work_dir: str, policy: str, ratio: float) -> dict:
    hook = dict(min_blocks=3, bad_numbers=policy, max_loss_ratio=ratio)
    return _train(work_dir, hook, ({0: [5]}, 1e6, True), 8)


def test_a_loss_that_explodes_is_treated_as_bad_numbers(tmp_path):
    cases = [('drop', 20.0), ('stop', 20.0), ('drop', 1e15)]
    calls = [(_loss, (str(tmp_path / str(i)), *case)) for i, case in enumerate(cases)]
    dropped, stopped, tolerated = run_all(2, calls)
    for worker in range(2):
        assert (dropped[worker]['count'], tolerated[worker]['count']) == (1, 0)
        assert 'round 2: worker 0: a mean loss of' in stopped[worker]['error']
        assert 'times the usual' in stopped[worker]['error']


def _resumed(work_dir: str, first: str, second: str) -> list[dict]:
    hook = dict(min_blocks=3, bad_numbers='drop', momentum_restart_interval=None, bn='average')
    epochs = dict(
        train_cfg=dict(by_epoch=True, max_epochs=2),
        train_dataloader=dict(
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=DoubleData(32),
            collate_fn=dict(type='default_collate'),
        ),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1)),
    )
    spoil = ({1: [3]}, NAN)
    whole = _train(work_dir + first, hook, spoil, **epochs)
    checkpoint = work_dir + first + '/epoch_1.pth'
    return [whole, _train(work_dir + second, hook, spoil, **epochs, load_from=checkpoint, resume=True)]


def test_a_run_resumes_after_a_dropped_round(tmp_path):
    for undisturbed, resumed in run_workers(_resumed, 2, str(tmp_path), '/a', '/b'):
        assert undisturbed['error'] == resumed['error'] == ''
        assert undisturbed['count'] == resumed['count'] == 1
        for name, value in undisturbed['state'].items():
            assert torch.equal(value, resumed['state'][name]), name


def test_an_exchange_that_is_tried_again_still_has_its_complaint():
    runner = SimpleNamespace(optim_wrapper=None)
    watch = LossWatch(max_ratio=2)
    watch.see(dict(loss=1.0))
    assert not watch.complaint(runner)
    watch.end_round(counts=True)
    watch.see(dict(loss=4.0))
    first = watch.complaint(runner)
    assert '4.0 times' in first
    assert watch.complaint(runner) == first
    watch.end_round(counts=False)
    watch.see(dict(loss=1.5))
    assert not watch.complaint(runner)
    assert watch.usual == 1
