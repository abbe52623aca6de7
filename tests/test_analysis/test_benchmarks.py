"""The benchmark scripts, run as a user does, on a network that is small enough."""

from __future__ import annotations

import json
import mmap
import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from resist_mm.analysis.benchmarks import cpu_quotas, training, training_rounds
from resist_mm.analysis.benchmarks.exchange import check_bytes
from resist_mm.analysis.benchmarks.exchange_rounds import WARM_UP
from resist_mm.analysis.benchmarks.overlap import Round, line_of, lost_sec
from resist_mm.exchange import ExchangePlan
from resist_mm.partition import PartitionSampler
from tests.test_tools.commands import ROOT, run_tool, start_tool
from tests.workers import run_workers

TINY = ('--arch', 'preact_tiny', '--workers', 2)
# widths 4, 8, 16, 32; a partitioned block is two norms and two 3x3 convolutions of 16 channels
TINY_BLOCK_BYTES = 4 * (2 * 2 * 16 + 2 * 9 * 16 * 16)


def link_tools_missing():
    return os.geteuid() != 0 or not (Path('/usr/sbin/ip').exists() and Path('/usr/sbin/tc').exists())


def test_benchmark_exchange_prints_seconds_and_the_plan_s_bytes():
    found = json.loads(run_tool('analysis_tools/benchmark_exchange.py', *TINY, '--rounds', 3, '--json'))
    protocols = {'resist', 'local_sgd', 'paper', 'torch_averager'}
    assert set(found['seconds']) == set(found['bytes']) == protocols
    assert all(seconds > 0 for seconds in found['seconds'].values())
    assert set(found['guard_seconds']) == {'resist', 'local_sgd'}
    for guard in found['guard_seconds'].values():
        assert set(guard) == {'looking', 'voting'} and all(seconds > 0 for seconds in guard.values())
    whole = 4 * NETWORK_PARAMS
    sampler = PartitionSampler(6, 2)
    rounds = [sampler.sample(index) for index in range(WARM_UP, WARM_UP + 4)]
    sends = [ExchangePlan.between(old, new).num_sends for old, new in pairwise(rounds)]
    shared = whole - 6 * TINY_BLOCK_BYTES
    expected = [2 * shared + n * TINY_BLOCK_BYTES for n in sends]
    assert found['bytes_of_rounds']['resist'] == pytest.approx(expected)
    assert found['bytes']['resist'] == pytest.approx(sum(expected) / 3)
    assert found['bytes']['local_sgd'] == found['bytes']['torch_averager'] == pytest.approx(2 * whole)
    # the paper's protocol reduces a shared block to one holder, also if that one does not keep it
    assert found['bytes']['paper'] >= found['bytes']['resist']


def test_benchmark_overlap_sends_the_same_bytes_ahead():
    out = run_tool('analysis_tools/benchmark_overlap.py', *TINY, '--rounds', 1, '--ahead-sec', 0, 0.3)
    off, ahead = ([float(number) for number in line.split()] for line in out.splitlines()[-2:])
    assert (off[0], ahead[0]) == (0, 0.3) and off[3] == ahead[3] > 0
    assert all(0 <= waited <= seconds for _, seconds, waited, _ in (off, ahead))


def test_benchmark_overlap_while_training():
    tool = 'analysis_tools/benchmark_overlap.py'
    out = run_tool(tool, *TINY, '--rounds', 1, '--ahead-sec', 0, 0.5, '--train', '--batch-size', 64)
    lines = ([float(number.rstrip('%')) for number in line.split()] for line in out.splitlines()[-2:])
    # the batch is large enough for printed milliseconds not to matter
    for ahead_sec, seconds, _, _, iteration, ahead, lost, share in lines:
        assert (ahead >= 1) == (ahead_sec > 0)
        cost = seconds + lost
        assert share == pytest.approx(100 * cost / (50 * iteration + cost), abs=0.2)


def test_what_is_lost_beside_averaging_counts():
    def of_worker(*ahead_sec: float, exchange_sec: float) -> list[Round]:
        return [Round(exchange_sec, 0.5, 7_000_000, 2.0, 3, sec) for sec in ahead_sec]

    workers = [of_worker(6, 7, 9, exchange_sec=1), of_worker(6, 6, 7.5, exchange_sec=3)]
    assert lost_sec(workers[0]) == [0, 1, 3]
    assert lost_sec([Round(1, 0.5, 0, 2.0, ahead=0, ahead_sec=1)]) == [1]  # too short for an iteration
    # the slowest in each round lose 0, 1 and 3 s, and exchange for 3: 4 of 100 + 4
    waits = ['6.00', '3.000', '0.500', '7.0']
    assert line_of(6, workers, trained=True).split() == [*waits, '2', '3', '1.000', '3.8%']
    assert line_of(6, workers, trained=False).split() == waits


def test_benchmark_training_measures_all_protocols(tmp_path):
    picture = tmp_path / 'training.png'
    found = json.loads(
        run_tool(
            'analysis_tools/benchmark_training.py',
            *TINY, '--local-iters', 4, '--timed-iters', 2, '--compared-iters', 1, '--min-blocks', 4,
            '--bf16', '--channels-last', '--json', '--plot', picture,
        )
    )  # fmt: skip
    assert [found[key] for key in ('min_blocks', 'bf16', 'channels_last', 'compared_iters')] == [4, True, True, 1]
    assert set(found['ratios']) == {'resist/local_sgd', 'local_sgd/ddp', 'resist/ddp'}
    for of in found['protocols'].values():
        assert of['seconds'] == pytest.approx(8 * (of['compute_sec_per_iter'] + of['exchange_sec_per_iter']))
    assert set(found['protocols']) == {'ddp', 'local_sgd', 'resist'}
    memory = {protocol: of['memory'] for protocol, of in found['protocols'].items()}
    whole = 4 * NETWORK_PARAMS
    for protocol in ('ddp', 'local_sgd'):
        assert [memory[protocol][key] for key in ('parameters', 'gradients', 'optimizer')] == [whole] * 3
    # every worker keeps four of the six blocks, and nothing of the others
    resident = {memory['resist'][key] for key in ('parameters', 'gradients', 'optimizer')}
    assert resident == {whole - 2 * TINY_BLOCK_BYTES}
    # staged are the shared part and the blocks that come; no more than the gradients, dropped before, had
    shared = whole - 6 * TINY_BLOCK_BYTES
    assert shared < memory['resist']['buffers'] <= shared + 3 * TINY_BLOCK_BYTES
    assert memory['resist']['buffers'] <= memory['resist']['gradients']
    assert memory['resist']['activations'] < memory['local_sgd']['activations']
    assert memory['ddp']['growth'] is None and all(of['peak'] > 0 for of in memory.values())
    growth = [memory[protocol]['growth'] for protocol in ('local_sgd', 'resist')]
    if training_rounds._forget_peak(torch.device('cpu')):
        assert all(isinstance(value, int) and value >= 0 for value in growth)
    assert found['protocols']['local_sgd']['bytes_per_round'] == pytest.approx(2 * whole)
    assert found['protocols']['ddp']['bytes_per_round'] == pytest.approx(4 * 2 * whole)
    assert found['protocols']['resist']['bytes_per_round'] < 2 * whole
    assert 0 < found['iterations']['flops_ratio'] < 1
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_the_peak_of_memory_is_forgotten():
    cpu, size = torch.device('cpu'), 2**26
    for _ in range(2):
        if not training_rounds._forget_peak(cpu):
            pytest.skip('/proc/self/clear_refs cannot be written here')
        held = training_rounds._used_bytes(cpu)
        assert training_rounds._peak_bytes(cpu) - held < size / 4
        with mmap.mmap(-1, size) as memory:  # a tensor could lie in pages that the process has kept
            memory.write(b'1' * size)
        assert training_rounds._peak_bytes(cpu) - held > size / 2


def _growth_of_a_worker() -> int | None:
    def refuse(path: Path, text: str) -> None:
        raise PermissionError(path)

    args = Namespace(arch='preact_tiny', device='cpu', batch_size=2, rounds=1, timed_iters=1, min_blocks=1)
    vars(args).update(bf16=False, channels_last=False, link=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, 'write_text', refuse)
        return training_rounds.train(args, 'resist')['memory']['growth']


def test_growth_is_unknown_where_peaks_are_not_forgotten():
    assert run_workers(_growth_of_a_worker, 2) == [None, None]
    assert training.most([None, None]) is None and training.most([None, 2, 1]) == 2


@pytest.mark.parametrize('script', ['benchmark_training.py', 'benchmark_exchange.py'])
def test_without_the_commands_for_links_the_message_names_them(script, tmp_path):
    result = start_tool(f'analysis_tools/{script}', *TINY, '--link', '1gbit', PATH=str(tmp_path))
    assert result.returncode != 0
    assert "the command 'ip'" in result.stdout and 'iproute2' in result.stdout
    assert 'Traceback' not in result.stdout


@pytest.mark.parametrize('args', [('--rounds', 0), ('--workers', 1)])
def test_benchmark_exchange_says_what_is_wrong(args):
    result = start_tool('analysis_tools/benchmark_exchange.py', *TINY, *args)
    assert result.returncode == 2
    assert f'{args[0]} must be at least' in result.stdout


def test_bytes_that_are_not_the_plan_s_are_an_error():
    check_bytes('resist', [10.0, 20.0], [10, None])
    with pytest.raises(RuntimeError, match=r'resist: the workers sent 20\.0 bytes, the plan says 30'):
        check_bytes('resist', [10.0, 20.0], [10, 30])


@pytest.mark.skipif(link_tools_missing(), reason='needs root, ip and tc')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_links_are_removed_also_after_ctrl_c_and_with_the_terminal(number):
    before = network_state()
    command = [sys.executable, str(ROOT / 'tools/analysis_tools/benchmark_exchange.py')]
    command += ['--arch', 'preact_tiny', '--workers', '2']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    script = subprocess.Popen(
        [*command, '--rounds', '100000', '--link', '1gbit'],
        cwd=ROOT,
        env=env,
        start_new_session=True,
        # under nohup, or in a script's background, they would be ignored
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    made = []
    try:
        deadline = time.monotonic() + 600
        while len(made) < 2 and script.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            made = [name for name in namespaces(f'rm{script.pid}') if processes_in(name)]
        os.killpg(script.pid, number)  # as a terminal does: to the workers, too
        script.wait(timeout=120)
    finally:
        if script.poll() is None:
            os.killpg(script.pid, signal.SIGKILL)
        script.wait()
    assert len(made) == 2, 'no worker came to its namespace'
    assert network_state() == before


def namespaces(prefix):
    out = subprocess.run(['ip', 'netns', 'list'], capture_output=True, text=True, check=True).stdout
    return [line.split()[0] for line in out.splitlines() if line.startswith(prefix)]


def processes_in(namespace):
    return subprocess.run(['ip', 'netns', 'pids', namespace], capture_output=True, text=True, check=False).stdout


def network_state():
    commands = (['ip', 'netns', 'list'], ['ip', '-o', 'link'])
    outs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout for command in commands]
    names = [line.split(':')[1].strip() for line in outs[1].splitlines()]
    return outs[0], names


def _tiny_params() -> int:
    """3x3 stem; blocks with a projection where the width changes; a linear head of 100 classes."""
    widths = [(4, 4), (4, 8), (8, 16), *[(16, 16)] * 6, (16, 32)]
    blocks = [2 * i + 9 * i * o + 2 * o + 9 * o * o + (i * o if i != o else 0) for i, o in widths]
    return 9 * 3 * 4 + sum(blocks) + 32 * 100 + 100


NETWORK_PARAMS = _tiny_params()


def test_benchmark_unequal_compares_what_goes_by_speed():
    sizes = ('--blocks', 3, '--channels', 4, '--batch-size', 2, '--local-iters', 2, '--settle', 2, '--rounds', 1)
    found = json.loads(run_tool('analysis_tools/benchmark_unequal.py', '--shares', 0.5, 1, *sizes, '--json'))
    settings = found['settings']
    assert list(settings) == ['equal hands', 'blocks by speed', 'iterations by speed', 'both by speed']
    for name, of in settings.items():
        assert 0 < of['idle'] <= of['idle_most'] < 1
        assert of['images_per_sec'] * of['seconds_of_round'] == pytest.approx(2 * sum(of['iterations']))
        assert sum(of['hands']) >= 6 and min(of['hands']) >= 1
        # somebody has to be the fastest
        assert max(of['iterations']) == 2 and (
            min(of['iterations']) == 2 or 'iterations' in name or 'both' in name
        )
        assert (of['shared'] is None) == (name == 'equal hands')
    assert settings['equal hands']['speedup'] == 1


def test_without_control_groups_a_worker_sleeps_for_the_rest_of_its_share(monkeypatch):
    monkeypatch.setattr(cpu_quotas, '_parent', lambda: (None, 0))
    slept: list[float] = []
    clock = iter([10.0, 10.3])
    monkeypatch.setattr(cpu_quotas.time, 'process_time', lambda: next(clock))
    monkeypatch.setattr(cpu_quotas.time, 'sleep', slept.append)
    with cpu_quotas.cpu_quotas([0.25, 1]) as (slow, _):
        slow.enter()
        slow.after_iteration()
    # 0.3 s of a processor are a quarter of 1.2 s
    assert slept == [pytest.approx(0.9)]
