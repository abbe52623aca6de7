"""The comparison with other methods: what each does, and how seconds are put together."""

from __future__ import annotations

import copy
import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from resist_mm.analysis.benchmarks.baselines import command
from resist_mm.analysis.benchmarks.baselines.command import iterations_for, measure_accuracy
from resist_mm.analysis.benchmarks.baselines.composition import row_of, seconds_of
from resist_mm.analysis.benchmarks.baselines.costs import Pace, costs_until
from resist_mm.analysis.benchmarks.baselines.methods import METHODS
from resist_mm.analysis.benchmarks.baselines.pictures import draw
from resist_mm.analysis.benchmarks.baselines.records import Records
from resist_mm.analysis.benchmarks.baselines.running import Setup, loss_of
from resist_mm.analysis.benchmarks.baselines.table import lines_of, rows_of
from resist_mm.analysis.benchmarks.delayed_links import parse_link
from resist_mm.convert.build import build_to_look_at
from resist_mm.registry import MODELS
from tests.test_analysis.test_benchmarks import link_tools_missing
from tests.test_tools.commands import ROOT, run_tool
from tests.workers import run_workers

PACE = Pace(local_iters=2, warm_up=2)
LR = 0.1
BACKBONE = dict(
    type='resist_mm.PreActResNet', block='basic', stage_blocks=(1, 1, 3, 1), stem='cifar', base_channels=4,
    final_norm=False, out_indices=(3,),
)  # fmt: skip
SCALE = [dict(type='ToDtype', dtype='float32', scale=True)]
MODEL = dict(
    type='resist_mm.ImageClassifier',
    data_preprocessor=dict(type='resist_mm.BatchPreprocessor', train_pipeline=SCALE, test_pipeline=SCALE),
    backbone=BACKBONE,
    num_classes=3,
)


def new_model():
    torch.manual_seed(0)
    return MODELS.build(copy.deepcopy(MODEL)).train()


def batch_of(worker, index):
    generator = torch.Generator().manual_seed(10 * index + worker)
    images = torch.randint(256, (4, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return dict(inputs=images, labels=torch.randint(3, (4,), generator=generator))


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def sgd(model):
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)


def train_by_all():
    """By method: weights after every iteration, and the costs that can be timed."""
    found = {}
    for name, method in METHODS.items():
        model = new_model()
        running = method.build(Setup(model, sgd(model), PACE))
        after = []
        for index in range(4):
            running.iterate(index, batch_of(dist.get_rank(), index), whole=index == 3)
            after.append(weights(model))
        running.iterate(4, batch_of(dist.get_rank(), 4), whole=False)
        for action in running.alone.values():
            action(batch_of(dist.get_rank(), 5))
        found[name] = (after, list(running.alone))
    return found


def trained_apart(iterations):
    """Weights of workers that train without each other."""
    of_workers = []
    for worker in range(2):
        model = new_model()
        optimizer = sgd(model)
        for index in range(iterations):
            optimizer.zero_grad()
            loss_of(model, model, batch_of(worker, index)).backward()
            optimizer.step()
        of_workers.append(weights(model))
    return of_workers


@pytest.fixture(scope='module')
def trained():
    return run_workers(train_by_all, 2)


def test_every_method_trains_and_ends_with_the_same_model_on_all_workers(trained):
    start = weights(new_model())
    for name in METHODS:
        first, second = (of_worker[name][0][-1] for of_worker in trained)
        assert torch.equal(first, second), name
        assert first.isfinite().all() and not torch.equal(first, start), name


def test_methods_do_what_they_are_called(trained):
    one_step = sum(trained_apart(1)) / 2  # with one step of SGD the mean of gradients is that of weights
    after = {name: of[0] for name, of in trained[0].items()}
    for name in ('ddp', 'powersgd_1', 'post_local_sgd'):  # the latter two begin with a warm-up
        torch.testing.assert_close(after[name][0], one_step, rtol=1e-5, atol=1e-7)
    assert not torch.equal(after['ddp_bf16'][0], after['ddp'][0])
    torch.testing.assert_close(after['ddp_bf16'][0], one_step, rtol=0.02, atol=2e-3)
    # the first iterations are alone, then there is a mean
    mean = sum(trained_apart(2)) / 2
    for name in ('averager', 'hierarchical', 'local_sgd'):
        torch.testing.assert_close(after[name][1], mean, rtol=1e-5, atol=1e-7)
    assert torch.equal(after['local_sgd'][0], trained_apart(1)[0])
    # the first outer step with Nesterov's momentum goes (1 + 0.9) * 0.7 times as far
    start = weights(new_model())
    torch.testing.assert_close(after['diloco'][1], start + 1.33 * (mean - start), rtol=1e-4, atol=1e-6)
    # PowerSGD begins after the warm-up
    torch.testing.assert_close(after['powersgd_4'][1], after['ddp'][1])
    assert (after['powersgd_1'][2] - after['ddp'][2]).abs().max() > 1e-5


def test_every_cost_is_timed_by_one_method(trained):
    timed = [cost for name, (_, costs) in trained[0].items() if METHODS[name].timed for cost in costs]
    assert len(timed) == len(set(timed))
    needed = {cost for method in METHODS.values() for n in (5, 8) for cost in costs_until(method.costs, n, PACE)}
    assert needed == set(timed)


def test_costs_of_a_run():
    pace = Pace(local_iters=2, warm_up=4)

    def costs(name, number):
        return dict(costs_until(METHODS[name].costs, number, pace))

    assert costs('ddp', 5) == {'data-parallel': 5}
    assert costs('powersgd_4', 5) == {'data-parallel': 4, 'PowerSGD 4': 1}
    # averages at the end of the warm-up, as torch does
    assert costs('post_local_sgd', 6) == {'data-parallel': 4, 'local': 2, 'average': 2}
    assert costs('averager', 5) == {'local': 5, 'average': 2}
    assert costs('hierarchical', 6) == {'local': 6, 'average of pairs': 2, 'average': 1}
    assert costs('local_sgd', 5) == {'local': 5, 'exchange local_sgd': 3}
    assert costs('resist', 5) == {'sub-ResNet': 5, 'exchange resist': 2, 'whole resist': 1}


def recorded(folder):
    records = Records(folder)
    # the link cannot matter for an iteration without communication: the median counts
    costs = {'local': (9.0, 0), 'exchange local_sgd': (5.0, 3e9), 'data-parallel': (20.0, 3e9)}
    costs = {cost: dict(seconds=seconds, bytes=nbytes) for cost, (seconds, nbytes) in costs.items()}
    for link in ('100mbit', '10mbit', '1gbit'):
        records.add('seconds', dict(method='local_sgd', link=link), dict(costs=costs))
        costs = dict(costs, local=dict(seconds={'100mbit': 1.0, '10mbit': 0.7}.get(link), bytes=0))
    for name, seed, points in [
        ('local_sgd', 0, [(2, 40.0), (4, 60.0)]),
        ('local_sgd', 1, [(2, 50.0), (4, 62.0)]),
        ('ddp', 0, [(2, 30.0), (4, 45.0)]),
    ]:
        found = dict(points=points, local_iters=2, warm_up=2)
        records.add('accuracy', dict(method=name, seed=seed, iters=4), found)
    return records


def test_seconds_to_an_accuracy_and_the_table(tmp_path):
    recorded(tmp_path)
    records = Records(tmp_path)  # from the file
    row = row_of(records, 'local_sgd', '10mbit', 4, PACE, [50.0, 61.0])
    # 4 iterations and 2 exchanges; seed 0 reaches 50% half way between 7 and 14 s, seed 1 after 7 s
    assert (row.seconds, row.nbytes, row.accuracies) == (14.0, 6e9, (60.0, 62.0))
    assert row.reached == {50.0: pytest.approx((10.5 + 7) / 2), 61.0: None}
    assert row_of(records, 'ddp', '10mbit', 4, PACE, [50.0]).reached == {50.0: None}
    assert row_of(records, 'resist', '10mbit', 4, PACE, [50.0]) is None
    assert seconds_of(records, 'resist', '10mbit', 4, PACE) is None
    assert iterations_for(records, 'ddp', '10mbit', PACE) == 1  # two would take 40 s
    assert iterations_for(records, 'local_sgd', '10mbit', PACE) == 6
    records.add('check', dict(method='ddp', link='10mbit'), dict(iterations=1, predicted=20.0, measured=16.0))
    rows = rows_of(records, ['10mbit', '1gbit'], 4, PACE, [40.0])
    lines = list(lines_of(records, rows, ['10mbit', '1gbit'], [40.0]))
    assert lines[2].split() == ['DDP', '45.00', '80', '67', '80', '67', '12.00']
    assert lines[4].split() == ['local', 'SGD', '61.00', '±', '1.41', '14', '7', '14', '7', '6.00']
    assert 'exchange local_sgd                               5.000           5.000   3000.00' in lines
    # timed, but not trained
    assert lines[3].split()[-6:] == ['-', '80', '-', '80', '-', '12.00']
    assert lines[-1].split() == ['DDP', '10mbit', '1', '20.00', '16.00', '+25.0%']
    drawn = draw(rows, ['10mbit', '1gbit'], 40.0, tmp_path)
    assert [path.name for path in drawn[::2]] == ['baselines_time.png', 'baselines_bytes.png']
    text = drawn[1].read_text()
    assert '1,000 Mbit/s' in text and '>80</text>' not in text and text.count('>67</text>') == 2
    assert '>12.00</text>' in drawn[3].read_text()
    nowhere = rows_of(records, ['10mbit'], 4, PACE, [99.0])
    with pytest.raises(ValueError, match='--wanted 99: no method has reached'):
        draw(nowhere, ['10mbit'], 99.0, tmp_path)


def test_what_is_recorded_is_not_measured_again(tmp_path, monkeypatch):
    recorded(tmp_path)
    path = tmp_path / 'records.jsonl'
    path.write_text(path.read_text()[:-9])  # killed while it wrote that of DDP
    calls = []
    monkeypatch.setattr(command, 'run_workers', lambda *args, **kwargs: calls.append(args))
    args = Namespace(
        methods=['ddp', 'local_sgd'], seeds=[0, 1], workers=2, config='c', work_dir=tmp_path, iters=4, interval=2
    )
    records = Records(tmp_path)
    task = Namespace(iters=4, pace=PACE)
    measure_accuracy(args, records, task)
    assert calls[0][4] == [('ddp', 0), ('ddp', 1)]
    with pytest.raises(ValueError, match=r'--interval 3: .* multiple of 2'):
        measure_accuracy(Namespace(**{**vars(args), 'interval': 3}), records, task)
    records.add('accuracy', dict(method='ddp', seed=0, iters=4), {})
    assert [json.loads(line)['kind'] for line in path.read_text().splitlines()].count('accuracy') == 3
    path.write_text('nothing\n')
    with pytest.raises(ValueError, match='line 1 is no record'):
        Records(tmp_path)


def test_links_are_read_from_text():
    assert parse_link('100mbit+40ms') == ('100mbit', 0.04)
    assert parse_link('1gbit') == ('1gbit', 0.0)
    for text in ('100mbit+40', '100mbit+ms', 'fast+40ms', '0mbit'):
        with pytest.raises(ValueError, match='--link'):
            parse_link(text)


@pytest.mark.slow
@pytest.mark.skipif(link_tools_missing() or not Path('/dev/net/tun').exists(), reason='needs root, ip, tc and tun')
def test_a_delay_is_in_the_seconds_of_an_exchange(tmp_path):
    base = ROOT / 'configs/cifar/small/preact-resnet-small_resist_4xb32-1200i_cifar10.py'
    config = tmp_path / 'tiny.py'
    config.write_text(f'_base_ = [{str(base)!r}]\nmodel = dict(backbone=dict(base_channels=4))\n')
    args = ('--measure', 'seconds', '--workers', 2, '--methods', 'local_sgd', '--links', '100mbit+150ms')
    run_tool('analysis_tools/benchmark_baselines.py', config, '--work-dir', tmp_path, *args)
    (record,) = Records(tmp_path).all('seconds')
    costs = record['costs']
    # a ring of two workers has two steps, and there is a vote before and one after
    assert costs['exchange local_sgd']['seconds'] > 0.6
    assert costs['local']['seconds'] > 0
    model = build_to_look_at(Config.fromfile(config), 'cpu')
    assert costs['exchange local_sgd']['bytes'] == pytest.approx(2 * 4 * weights(model).numel(), rel=0.1)
