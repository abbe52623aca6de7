"""plan_run.py: its bytes are the engine's, its seconds follow a formula, its choice a rule."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from mmengine.config import Config

from resist_mm.analysis.benchmarks.planned import compare
from resist_mm.analysis.cost import NetworkSize, PartSize
from resist_mm.analysis.cost.config_run import network_size
from resist_mm.analysis.cost.counted_run import CountedRun
from resist_mm.analysis.named_networks import CODECS
from resist_mm.analysis.plan import Costs, LinkSpeed, Setting, Work, choose, command, settings_of
from resist_mm.analysis.plan import trial as timing
from resist_mm.analysis.plan.seconds import ahead_sec, ddp_iteration_sec, exchange_sec
from resist_mm.builders import build_codec
from resist_mm.exchange import ExchangePlan
from resist_mm.partition import Assignment
from resist_mm.registry import CODECS as REGISTERED
from resist_mm.rounds import Engine, LocalSGD, ResIST
from tests.test_tools.commands import ROOT, run_tool
from tests.toy import ToyModel
from tests.workers import run_workers

ROUNDS = 3
NAMES = ('none', 'q6', 'c2', 'c2_topk3', 'topk25')
COSTS = Costs(0.5, 0.05, LinkSpeed(rate=1000.0, latency=0.01))
CONFIG = """
custom_imports = dict(imports=['resist_mm'], allow_failed_imports=False)
model = dict(type='tests.toy.ToyModel')
train_dataloader = dict(
    batch_size=4,
    num_workers=2,
    persistent_workers=True,
    dataset=dict(type='tests.toy.ToyData', length=64),
    sampler=dict(type='DefaultSampler'),
    collate_fn=dict(type='default_collate'),
)
train_cfg = dict(max_epochs=10)
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01))
custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=dict(by_speed=10), min_blocks=2, blocks='by_speed')]
"""


def run_of(network: NetworkSize, codecs: tuple[str, ...] = ('none',), **changes) -> CountedRun:
    named = {name: CODECS[name] for name in codecs}
    return replace(CountedRun('x', network, 4, 10, 2, 960, (2, 2), codecs=named), **changes)


def _bytes_of_engines() -> dict:
    found = {}
    for name in NAMES:
        for protocol in ('resist', 'local_sgd'):
            deals = ResIST(min_blocks=2) if protocol == 'resist' else LocalSGD()
            model = ToyModel()
            engine = Engine(model, torch.optim.SGD(model.parameters(), lr=0.1), deals, build_codec(CODECS[name]))
            totals = [engine.run_round(lambda: None, 1).total for _ in range(ROUNDS)]
            found[protocol, name] = sum(totals) / ROUNDS
    return found


def test_bytes_are_those_of_the_engine():
    engines, *_ = run_workers(_bytes_of_engines, 3)
    run = run_of(network_size(ToyModel()), NAMES)
    settings = settings_of(run, 3, [10], COSTS, samples=ROUNDS)
    predicted = {(s.protocol, s.codec): s.bytes for s in settings if s.protocol != 'ddp'}
    assert predicted == pytest.approx(engines)
    assert len(set(engines.values())) == len(engines)


def test_all_registered_codecs_are_compared():
    ours = {name for name, codec in REGISTERED.module_dict.items() if codec.__module__.startswith('resist_mm')}
    assert {cfg['type'] for cfg in CODECS.values() if cfg} == ours


def test_seconds_of_a_ring():
    network = NetworkSize(PartSize(900, 100))
    plan = ExchangePlan.between(*[Assignment.full(4, 0)] * 2)
    # 2 * 3/4 of 4,000 bytes at 1,000 a second; 2 votes and 6 steps of the ring
    assert exchange_sec(COSTS, network, plan) == pytest.approx(6.0 + 8 * 0.01)


def test_seconds_of_a_hand_over_are_those_of_the_busiest_link():
    network = NetworkSize(PartSize(0), (PartSize(250), PartSize(500), PartSize(250)))
    old = Assignment(((0, 1), (2,)), 3)
    new = Assignment(((2,), (0, 1)), 3)
    # worker 0 sends 3,000 bytes and receives 1,000; 2 votes, 2 steps of messages, 2 of a ring
    assert exchange_sec(COSTS, network, ExchangePlan.between(old, new)) == pytest.approx(3.0 + 6 * 0.01)


def test_seconds_of_a_codec_are_added_in_steps():
    network = NetworkSize(PartSize(800))
    plan = ExchangePlan.between(*[Assignment.full(2, 0)] * 2)
    costs = replace(COSTS, work=dict(bf16=Work(encode=0.001, decode=0.002)))
    seconds = exchange_sec(costs, network, plan, build_codec(dict(type='bf16')), 'bf16')
    # each sends half of 1,600 bytes twice; encodes 1,200 numbers and decodes 1,200; 2 votes, 2 + 2 further steps
    assert seconds == pytest.approx(1.6 + 1.2 + 2.4 + 6 * 0.01)


def test_gradients_of_one_bucket_are_sent_after_the_backward_pass():
    network = NetworkSize(PartSize(1000))
    assert ddp_iteration_sec(COSTS, network, 2) == pytest.approx(0.5 + 4.0 + 2 * 0.01)


def test_gradients_of_many_buckets_hide_behind_the_backward_pass():
    network = NetworkSize(PartSize(25 * 2**20))
    costs = Costs(6.0, 0.0, LinkSpeed(rate=100 * 2**20, latency=0))
    # 100 MiB in buckets of 1 and 25; the last, of 24, is sent when all gradients are there
    assert ddp_iteration_sec(costs, network, 2) == pytest.approx(6.0 + 0.24)


def test_a_run_is_its_iterations_and_its_exchanges():
    [setting, *_] = settings_of(run_of(NetworkSize(PartSize(1000))), 2, [10], COSTS)
    assert (setting.protocol, setting.local_iters) == ('local_sgd', 10)
    assert setting.exchange_sec == pytest.approx(4.0 + 4 * 0.01)
    assert setting.seconds == pytest.approx(5.0 + 4.04)
    # 960 images twice, 8 an iteration: 24 rounds
    assert setting.run_seconds == pytest.approx(24 * 9.04)
    assert setting.run_bytes == 24 * 8000


def test_a_sub_resnet_is_as_fast_as_its_largest_hand():
    network = NetworkSize(PartSize(10), tuple(PartSize(10) for _ in range(6)))
    settings = settings_of(run_of(network), 2, [10], COSTS)
    of_resist = next(s for s in settings if s.protocol == 'resist')
    assert of_resist.seconds - of_resist.exchange_sec == pytest.approx(10 * (0.5 - 3 * 0.05))


def test_overlap_hides_the_link_s_time_of_the_shared_part():
    # a ring of two workers sends the 8,000 bytes of the shared part in 8 s
    network = NetworkSize(PartSize(1900, 100), (PartSize(100), PartSize(100)))
    run = run_of(network, ('none', 'c2'), min_blocks=1)
    settings = settings_of(run, 2, [10, 40], COSTS, overlap_iters=[0, 2, 20])
    of = {(s.protocol, s.codec, s.local_iters, s.overlap_iters): s for s in settings}
    assert [key[2:] for key in of if key[:2] == ('resist', 'none')] == [
        (10, 0),
        (10, 2),
        (40, 0),
        (40, 2),
        (40, 20),
    ]
    iteration = 0.5 - 0.05
    for overlap, hidden in ((2, 2 * iteration), (20, 8.0)):
        before, after = of['resist', 'none', 40, 0], of['resist', 'none', 40, overlap]
        assert before.seconds - after.seconds == pytest.approx(hidden)
        assert before.exchange_sec - after.exchange_sec == pytest.approx(hidden)
        assert before.bytes == after.bytes and before.run_bytes == after.run_bytes
    # 240 iterations, 6 rounds of which one ends the run with the whole model, which is averaged at its end
    assert of['resist', 'none', 40, 0].run_seconds - of['resist', 'none', 40, 20].run_seconds == pytest.approx(
        5 * 8
    )
    # all that travels of local SGD without a codec
    assert of['local_sgd', 'none', 40, 20].exchange_sec == pytest.approx(4 * 0.01)
    # work of the processor is not hidden: 2 bits and a scale for each chunk go in two steps, all else is a ring
    costs = replace(COSTS, work=dict(c2=Work(encode=0.001, decode=0.001)))
    before, after = (
        s
        for s in settings_of(run, 2, [40], costs, overlap_iters=[0, 20])
        if s.codec == 'c2' and s.protocol == 'local_sgd'
    )
    assert after.exchange_sec > 0.001 * 2 * network.whole.weights > 0
    assert before.exchange_sec - after.exchange_sec == pytest.approx(
        ahead_sec(costs, network.whole, 2, build_codec(CODECS['c2']))
    )


def test_overlap_is_as_long_as_needed_and_short_against_a_round():
    run = run_of(NetworkSize(PartSize(1000)))  # 4 s, 8 iterations
    found = {
        s.local_iters: s.overlap_iters for s in settings_of(run, 2, [5, 40, 200], COSTS) if s.protocol != 'ddp'
    }
    assert found == {5: 0, 40: 4, 200: 8}


def test_options_that_overlap_cannot_be_combined_with_leave_it_out(plan_run, tmp_path: Path):
    run = run_of(NetworkSize(PartSize(1000)), can_overlap=False)
    assert {s.overlap_iters for s in settings_of(run, 2, [40], COSTS, overlap_iters=[0, 2])} == {0}
    config = tmp_path / 'toy.py'
    config.write_text(CONFIG.replace('min_blocks=2', "min_blocks=2, bad_numbers='drop'"))
    options = ('--workers', 2, '--link', '1mbit', '--iter-sec', 0.2, '--codec', 'none', '--json')
    assert {s['overlap_iters'] for s in json.loads(plan_run(*options))['settings']} == {0}
    config.write_text(CONFIG)
    assert {s['overlap_iters'] for s in json.loads(plan_run(*options))['settings']} > {0, 1}


def test_the_help_can_be_read(plan_run):
    assert plan_run('--help').startswith('0 ')


def test_codecs_that_round_at_random_have_no_overlap():
    random = replace(
        run_of(NetworkSize(PartSize(1000))), codecs=dict(random=dict(type='quantize', bits=4, stochastic=True))
    )
    assert {s.overlap_iters for s in settings_of(random, 2, [40], COSTS)} == {0}


def setting(
    protocol: str, codec: str, iters: int, share: float, iteration: float = 1.0, overlap: int = 0
) -> Setting:
    seconds = iters * iteration / (1 - share)
    return Setting(protocol, codec, iters, seconds, share * seconds, 0, None, None, overlap)


@pytest.mark.parametrize(
    ('of_local_sgd', 'expected'),
    [
        ([(50, 'none', 0.04), (50, 'q6', 0.01)], (50, 'none')),  # exact, if it costs no more than that
        ([(50, 'none', 0.2), (50, 'q6', 0.04), (50, 'c2', 0.01), (200, 'none', 0.04)], (50, 'q6')),
        ([(50, 'none', 0.2), (50, 'c2', 0.1), (200, 'none', 0.05), (200, 'c2', 0.01)], (200, 'none')),
        ([(50, 'none', 0.4), (50, 'c2', 0.2)], (50, 'c2')),  # none is cheap: the cheapest
        ([(10, 'none', 0.01), (50, 'none', 0.01)], (50, 'none')),  # never shorter than in the config
    ],
)
def test_exact_settings_are_preferred(of_local_sgd: list, expected: tuple):
    settings = [setting('local_sgd', codec, iters, share) for iters, codec, share in of_local_sgd]
    settings.append(setting('ddp', 'none', 50, 0.9))
    chosen = choose(settings, 50, list(NAMES))
    assert (chosen.protocol, chosen.local_iters, chosen.codec) == ('local_sgd', *expected)
    faster = setting('resist', 'none', 50, 0.3, iteration=0.1)
    assert choose([*settings, faster], 50, list(NAMES)) is faster
    assert choose([*settings, faster], 50, ['c2', 'q6']) is faster, 'data-parallel training has none'


def test_overlap_is_chosen_where_compression_is_not_enough():
    exact, codec = setting('local_sgd', 'none', 50, 0.2), setting('local_sgd', 'c2', 50, 0.1)
    ahead = setting('local_sgd', 'none', 50, 0.04, overlap=5)
    longer = setting('local_sgd', 'none', 200, 0.01)
    assert choose([longer, ahead, codec, exact], 50, list(NAMES)) is ahead
    codec_ahead = setting('local_sgd', 'c2', 50, 0.01, overlap=1)
    assert choose([codec_ahead, ahead, exact], 50, list(NAMES)) is ahead, 'fp32 before fewer iterations'
    enough = setting('local_sgd', 'c2', 50, 0.03)
    assert choose([longer, ahead, enough, exact], 50, list(NAMES)) is enough


def test_predicted_bytes_that_are_not_sent_are_an_error():
    predicted = Setting('resist', 'none', 5, 2.0, 1.0, 300, None, None)
    found = compare(predicted, [(2.5, 300, 10), (2.4, 300, 20)])
    assert (found['measured_sec'], found['off'], found['on_link']) == (2.5, pytest.approx(-0.2), 30)
    with pytest.raises(RuntimeError, match='the workers sent 301 bytes a round, predicted were 300'):
        compare(predicted, [(2.5, 301, 10)])


@pytest.fixture
def plan_run(monkeypatch, capsys, tmp_path: Path):
    """Run the command in this process on a toy config; gives what it prints."""
    (tmp_path / 'toy.py').write_text(CONFIG)

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['plan_run.py', str(tmp_path / 'toy.py'), *map(str, args)])
        try:
            command.main()
        except SystemExit as stop:
            return f'{stop.code} {capsys.readouterr().err}'
        return capsys.readouterr().out

    return run


def test_a_config_is_timed_and_planned(plan_run):
    found = json.loads(
        plan_run('--workers', 2, '--link', '10gbit', '--latency-ms', 0, '--most-exchange', 1, '--json')
    )
    costs = found['costs']
    assert costs['whole_sec'] > 0 and costs['block_sec'] >= 0 and set(costs['work']) == {*CODECS} - {'none'}
    assert costs['link']['rate'] == pytest.approx(1.25e9 * 1448 / 1514)
    keys = {(s['protocol'], s['codec'], s['local_iters'], s['overlap_iters']) for s in found['settings']}
    lengths = ((2, 0), (10, 0), (10, 1), (40, 0), (40, 1))  # iterations of a round, and of overlap
    of_rounds = {(p, name, *n) for p in ('resist', 'local_sgd') for name in CODECS for n in lengths}
    assert keys == of_rounds | {('ddp', 'none', n, 0) for n in (2, 10, 40)}
    assert (found['chosen']['codec'], found['chosen']['local_iters']) == ('none', 10)


def test_the_table_and_the_lines_for_the_config(plan_run):
    table = plan_run('--workers', 2, '--link', '1mbit', '--iter-sec', 0.2, 0.1, '--codec', 'none', 'c2')
    assert "dict(type='resist_mm.ResISTHook', local_iters=" in table
    assert "# in place of the config's hook; its other options stay\ncustom_hooks" in table
    assert 'not counted: blocks=' in table
    assert 'an iteration: 0.2 s, 0.0333 s of it for each partitioned block (given)' in table


@pytest.mark.parametrize('codecs', [('c2', 'none'), ('c2', 'q6')])
def test_exact_settings_come_first_however_they_are_asked_for(plan_run, codecs: tuple):
    options = ('--workers', 2, '--link', '10gbit', '--iter-sec', 0.2, '--local-iters', 10, '--codec', *codecs)
    found = json.loads(plan_run(*options, '--json'))
    assert found['chosen']['codec'] == codecs[1]


def test_lines_for_a_config_without_rounds_are_complete():
    run = run_of(NetworkSize(PartSize(100)))
    found: dict = {}
    exec(command.as_config(run, setting('local_sgd', 'none', 20, 0.1)), found)
    assert found['model_wrapper_cfg'] == dict(type='resist_mm.LocalModel')
    assert found['custom_hooks'] == [dict(type='resist_mm.LocalSGDHook', local_iters=20)]
    exec(command.as_config(run, setting('resist', 'none', 20, 0.1, overlap=2)), found)
    assert found['custom_hooks'][0]['overlap_iters'] == 2
    exec(command.as_config(run, setting('ddp', 'none', 20, 0.1)), found)
    ddp = Config.fromfile(ROOT / 'configs/_base_/protocols/ddp.py')
    assert found['model_wrapper_cfg'] == ddp.model_wrapper_cfg


@pytest.mark.parametrize(
    ('args', 'message'),
    [
        (('--link', '100'), "a rate is written as tc does, such as '1gbit' or '100mbit'"),
        (('--link', '0mbit'), 'a rate is written as tc does'),
        (('--link', '100mbps'), '--link 100mbps'),
        ((), 'give the rate of links'),
        (('--link', '1gbit', '--measure'), 'not both'),
        (('--link', '1gbit', '--workers', 1), 'nobody to communicate with'),
        (('--link', '1gbit', '--iter-sec', 0), '--iter-sec must be above 0'),
        (('--link', '1gbit', '--overlap-iters', -1), '--overlap-iters must be at least 0'),
        (('--link', '1gbit', '--iter-sec', 1, 2, 3), 'one or two numbers, got 3'),
        (('--link', '1gbit', '--iter-sec', 1, '--workers', 2, '--min-blocks', 7), '7'),
    ],
)
def test_the_command_says_what_is_wrong(plan_run, args: tuple, message: str):
    assert message in plan_run(*args)


@pytest.mark.parametrize(
    ('first_sec', 'number', 'expected'), [(0.5, 10, 10), (12, 10, 5), (600, 10, 2), (600, 1, 1)]
)
def test_fewer_iterations_are_timed_if_they_take_long(monkeypatch, first_sec: float, number: int, expected: int):
    trial = object.__new__(timing.Trial)
    trial.device = torch.device('cpu')
    timed = []
    monkeypatch.setattr(timing, 'timed', lambda action, number, device: timed.append(number) or first_sec)
    assert trial.iteration_sec(number) == first_sec and timed == [1, expected]


def _numbers_timed_by_a_worker() -> list[int]:
    trial = object.__new__(timing.Trial)
    trial.device = torch.device('cpu')
    numbers: list[int] = []

    def time_them(action: Callable, number: int, device: torch.device) -> float:
        numbers.append(number)
        return (4.0, 15.0)[dist.get_rank()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, 'timed', time_them)
        trial.iteration_sec(20)
    return numbers


def test_all_workers_time_as_many_iterations_as_the_slowest():
    assert run_workers(_numbers_timed_by_a_worker, 2) == [[1, 4]] * 2


def test_what_the_page_of_benchmarks_shows_comes_out():
    blocks = re.findall(r'```\w*\n(.*?)```', (ROOT / 'docs/benchmarks.md').read_text(), re.DOTALL)
    ((asked, shown),) = ((c, out) for c, out in itertools.pairwise(blocks) if 'plan_run.py' in c)
    python, tool, *words = asked.replace('\\\n', ' ').split()
    assert (python, tool) == ('python', 'tools/analysis_tools/plan_run.py')
    assert run_tool('analysis_tools/plan_run.py', *words).strip() == shown.strip()
