"""What the log shows of the rounds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch.distributed as dist
from mmengine.visualization import Visualizer

from resist_mm.analysis.runs import HeldRound, read_run
from resist_mm.exchange import ExchangePlan, all_reduce_bytes
from resist_mm.hooks import ResISTHook
from resist_mm.partition import PartitionSampler
from tests.toy import toy_runner
from tests.workers import run_workers

KEYS = ('round', 'depth', 'compute_sec', 'exchange_sec', 'sent_mb', 'received_mb', 'total_mb')


def _train(work_dir: str) -> tuple:
    hook = ResISTHook(local_iters=2, min_blocks=2)
    visualizer = Visualizer(
        name=f'toy{dist.get_rank()}',
        save_dir=work_dir,
        vis_backends=[dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')],
    )
    runner = toy_runner(work_dir, [hook], log_level='INFO', visualizer=visualizer)
    runner.train()
    shown = {key: runner.message_hub.get_scalar(f'train/{key}').data[0].tolist() for key in KEYS}
    parts = hook.engine.parts
    sizes = [part.nbytes for part in parts.blocks]
    return shown, sizes, sum(part.nbytes for part in parts.shared), hook.seed


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('logs')
    return work_dir, run_workers(_train, 4, str(work_dir))


def test_the_bytes_shown_are_those_of_the_plan(trained):
    _, results = trained
    for rank, (shown, sizes, shared, seed) in enumerate(results):
        sampler = PartitionSampler(6, 4, 2, seed)
        plan = ExchangePlan.between(sampler.sample(0), sampler.sample(1))
        ring = all_reduce_bytes(shared, 4).sent
        assert shown['sent_mb'][0] == pytest.approx((plan.sent(rank, sizes) + ring) / 1e6)
        assert shown['received_mb'][0] == pytest.approx((plan.received(rank, sizes) + ring) / 1e6)
        assert shown['total_mb'][0] == pytest.approx((plan.total(sizes) + 4 * ring) / 1e6)
        # two rounds are shown, none with bytes at its beginning: it began from the whole model
        assert shown['round'] == [0, 1]
        assert shown['depth'] == [len(sampler.sample(index).blocks(rank)) for index in range(2)]
    sent = sum(of_worker[0]['sent_mb'][0] for of_worker in results)
    assert sent == pytest.approx(results[0][0]['total_mb'][0])


def test_log_progress_line_and_tensorboard_show_them(trained):
    work_dir, _ = trained
    log = '\n'.join(path.read_text() for path in Path(work_dir).rglob('*.log'))
    assert re.search(
        r'Round 0: depth 2 of 6 blocks, 2 iterations in \d+\.\d+ s, exchange in \d+\.\d+ s; '
        r'sent \d+\.\d+ MB, received \d+\.\d+ MB, all workers \d+\.\d+ MB',
        log,
    )
    line = next(line for line in log.splitlines() if 'Epoch(train) [2][1/2]' in line)
    scalars = '\n'.join(path.read_text() for path in Path(work_dir).rglob('scalars.json'))
    for key in KEYS:
        assert f'{key}: ' in line
        assert f'"{key}"' in scalars
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tags: set[str] = set()
    for events in Path(work_dir).rglob('events.out.tfevents*'):
        tags |= set(EventAccumulator(str(events)).Reload().Tags()['scalars'])
    assert {f'train/{key}' for key in KEYS} <= tags or set(KEYS) <= tags


def test_worker_0_records_who_held_what(trained):
    work_dir, results = trained
    held = read_run(work_dir).held
    sampler = PartitionSampler(6, 4, 2, seed=results[0][3])
    assert list(held) == [0, 1]
    for index, of_round in held.items():
        blocks = tuple(sampler.sample(index).blocks(worker) for worker in range(4))
        assert of_round == HeldRound(blocks, 6, whole=index == 1), 'training ends after round 1'
