"""The analysis scripts, run as a user does, on a network that is small enough."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from resist_mm.exchange import ExchangePlan
from resist_mm.partition import PartitionSampler
from tests.test_tools.commands import ROOT, run_tool, start_tool

FOLDER = ROOT / 'tools' / 'analysis_tools'
CIFAR100 = ('--arch', 'preact_resnet101', '--dataset', 'cifar100', '--workers', 2, 4, 8)
TINY = ('--arch', 'preact_tiny', '--workers', 2)
# widths 4, 8, 16, 32; a partitioned block is two norms and two 3x3 convolutions of 16 channels
TINY_BLOCK_BYTES = 4 * (2 * 2 * 16 + 2 * 9 * 16 * 16)


@pytest.fixture(scope='module')
def networks():
    sys.path.insert(0, str(FOLDER))
    try:
        import _networks
    finally:
        sys.path.remove(str(FOLDER))
    return _networks


@pytest.fixture
def comm_cost(monkeypatch, capsys):
    """Run comm_cost.py in this process, which has imported torch; gives what it prints."""

    def run(*args):
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setattr(sys, 'argv', ['comm_cost.py', *map(str, args)])
        try:
            runpy.run_path(str(FOLDER / 'comm_cost.py'), run_name='__main__')
        except SystemExit as stop:
            assert stop.code
            return f'{stop.code} {capsys.readouterr().err}'
        return capsys.readouterr().out

    return run


@pytest.fixture
def costs(comm_cost):
    """The same, what it prints with --json."""
    return lambda *args: json.loads(comm_cost(*args, '--json'))


def figures(rows, protocol, key):
    return [round(row[key], 4) for row in rows if row['protocol'] == protocol]


def link_tools_missing():
    return os.geteuid() != 0 or not (Path('/usr/sbin/ip').exists() and Path('/usr/sbin/tc').exists())


def test_table_1_of_the_paper(costs):
    rows = costs(
        '--arch',
        'preact_resnet101',
        '--dataset',
        'cifar100',
        '--workers',
        2,
        4,
        8,
        '--blocks-per-worker',
        11,
        6,
        4,
    )
    assert figures(rows, 'resist', 'workers') == [2, 4, 8]
    assert figures(rows, 'resist', 'paper_gb_per_round') == [0.4546, 0.7202, 1.2893]
    assert figures(rows, 'local_sgd', 'paper_gb_per_round') == [0.6624, 1.3247, 2.6494]


def test_bytes_on_the_wire(costs):
    rows = costs(*CIFAR100)
    assert {row['protocol'] for row in rows} == {'resist', 'local_sgd', 'ddp', 'gpipe'}
    for found, most in zip(figures(rows, 'resist', 'wire_gb_per_round'), (0.1760, 0.4490, 1.1000), strict=True):
        assert found <= most
    assert figures(rows, 'local_sgd', 'wire_gb_per_round') == [0.3312, 0.9935, 2.3182]


def test_the_table_names_both_ways_of_counting_and_a_picture_is_drawn(tmp_path):
    picture = tmp_path / 'cost.png'
    out = run_tool('analysis_tools/comm_cost.py', '--workers', 4, '--codec', 'none', 'q6', '--plot', picture)
    assert 'paper counting' in out and 'wire counting' in out
    assert 'q6' in out
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_comm_cost_starts_without_mmdet():
    code = "import sys; sys.argv = ['comm_cost.py']; import comm_cost; print('mmdet' in sys.modules)"
    out = subprocess.run(
        [sys.executable, '-c', code], cwd=FOLDER, env=os.environ, capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == 'False'


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'config.py'
    path.write_text(
        "model = dict(type='resist_mm.PreActResNet', block='basic', stage_blocks=(1, 1, 7, 1), stem='cifar',\n"
        '             base_channels=4, final_norm=False)\n'
        "custom_hooks = [dict(type='resist_mm.ResISTHook', local_iters=7, min_blocks=3)]\n"
        'train_dataloader = dict(batch_size=5)\n'
        'train_cfg = dict(max_epochs=2)\n'
    )
    return path


def test_costs_of_a_config_are_those_of_its_model(config, costs):
    rows = costs('--config', config, '--workers', 2, '--num-images', 100, '--image-size', 32, 32)
    by_protocol = {row['protocol']: row for row in rows}
    named = {row['protocol']: row for row in costs('--arch', 'preact_tiny', '--workers', 2, '--min-blocks', 3)}
    head = 4 * (32 * 100 + 100)
    for protocol in ('resist', 'local_sgd'):
        difference = named[protocol]['wire_gb_per_round'] - by_protocol[protocol]['wire_gb_per_round']
        assert difference * 1e9 == pytest.approx(2 * head)
    assert {row['local_iters'] for row in rows} == {7}
    assert by_protocol['ddp']['rounds'] == 3  # 20 iterations
    ring = by_protocol['local_sgd']['wire_gb_per_round']
    assert by_protocol['ddp']['wire_gb_per_run'] == pytest.approx(20 * ring)
    assert by_protocol['gpipe']['wire_gb_per_round'] == pytest.approx(7 * 10 * 2 * 4 * 16 * 8 * 8 / 1e9)


def test_codec_and_warm_up_of_a_config_are_counted(config, costs):
    with config.open('a') as file:
        file.write("custom_hooks[0].update(codec=dict(type='quantize', bits=6), warmup_rounds=2)\n")
    options = ('--workers', 2, '--num-images', 100, '--image-size', 32, 32)
    rows = {row['protocol']: row for row in costs('--config', config, *options)}
    named = costs('--config', config, *options, '--codec', 'q6', 'none')
    by_codec = {(row['protocol'], row['codec']): row for row in named}
    assert rows['resist'] == by_codec['resist', 'q6'] != by_codec['resist', 'none']
    resist, local_sgd = rows['resist'], rows['local_sgd']
    assert (resist['rounds'], resist['warmup_rounds']) == (3, 2)
    expected = 2 * local_sgd['paper_gb_per_round'] + resist['paper_gb_per_round']
    assert resist['paper_gb_per_run'] == pytest.approx(expected)


def test_what_a_config_does_not_say_is_asked_for(config, comm_cost):
    text = config.read_text()
    config.write_text(text.split('custom_hooks')[0])
    assert 'give --local-iters' in comm_cost('--config', config)
    assert 'give --batch-size' in comm_cost('--config', config, '--local-iters', 5)
    config.write_text(text.replace('PreActResNet', 'NoSuchNet'))
    assert 'config.py cannot be built' in comm_cost('--config', config)


def test_costs_of_a_real_config(costs):
    config = ROOT / 'configs/cifar/preact-resnet101_resist-6bit_4xb128-160e_cifar100.py'
    rows = costs('--config', config, '--workers', 4, '--num-images', 50_000)
    named = costs('--arch', 'preact_resnet101', '--workers', 4, '--codec', 'q6')
    assert [row['wire_gb_per_run'] for row in rows] == pytest.approx([row['wire_gb_per_run'] for row in named])


@pytest.mark.parametrize(
    ('args', 'words'),
    [
        (('--epochs', 0), '--epochs must be above 0'),
        (('--workers', 2, 4, '--blocks-per-worker', 11), 'one number for each of --workers'),
        (('--workers', 2, '--blocks-per-worker', 5), '2 workers cannot hold 22 blocks'),
        (('--workers', 2, '--min-blocks', 23), 'min_blocks=23'),
        (('--workers', 0), 'counts from 1'),
    ],
)
def test_comm_cost_says_what_is_wrong(comm_cost, args, words):
    assert words in comm_cost(*args)


@pytest.mark.parametrize(
    'name', ['preact_resnet101', 'preact_resnet152', 'preact_resnet200', 'resnet101', 'resnet152']
)
def test_sizes_of_named_networks_are_those_of_the_real_ones(networks, name):
    from resist_mm.models import partitioned_stages

    classes = 10
    with torch.device('meta'):
        model = networks.build_classifier(name, classes)
    size = networks.ARCHITECTURES[name].size(classes, (64, 64))
    stages = partitioned_stages(model).values()
    blocks = [s.block_parameters(n) for s in stages for n in range(s.num_partitioned)]
    assert [block.weights for block in size.blocks] == [sum(p.numel() for p in b if p.dim() > 1) for b in blocks]
    assert [block.total for block in size.blocks] == [sum(p.numel() for p in b) for b in blocks]
    assert size.whole.weights == sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert size.whole.total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('name', ['preact_tiny', 'resnet50'])
@pytest.mark.parametrize('image_size', [(32, 32), (75, 130)])
def test_activations_of_named_networks_are_those_of_the_real_ones(networks, name, image_size):
    from torch import nn

    numels = []
    model = networks.build_classifier(name, 2)
    for stage in (getattr(model[0], stage) for stage in model[0].res_layers):
        for block in stage if isinstance(stage, nn.Sequential) else stage.children():
            block.register_forward_hook(lambda module, args, output: numels.append(output.numel()))
    model.eval()(torch.zeros(1, 3, *image_size))
    assert networks.ARCHITECTURES[name].size(2, image_size).activations == tuple(numels)


def test_resnet101_for_imagenet_has_the_known_number_of_parameters(networks):
    assert networks.ARCHITECTURES['resnet101'].size(1000, (224, 224)).whole.total == 44_549_160


def test_benchmark_exchange_prints_seconds_and_the_plan_s_bytes():
    found = json.loads(run_tool('analysis_tools/benchmark_exchange.py', *TINY, '--rounds', 5, '--json'))
    protocols = {'resist', 'local_sgd', 'paper', 'torch_averager'}
    assert set(found['seconds']) == set(found['bytes']) == protocols
    assert all(seconds > 0 for seconds in found['seconds'].values())
    whole = 4 * NETWORK_PARAMS
    sampler = PartitionSampler(6, 2)
    rounds = [sampler.sample(index) for index in range(1, 7)]
    sends = [ExchangePlan.between(old, new).num_sends for old, new in pairwise(rounds)]
    shared = whole - 6 * TINY_BLOCK_BYTES
    expected = [2 * shared + n * TINY_BLOCK_BYTES for n in sends]
    assert found['bytes_of_rounds']['resist'] == pytest.approx(expected)
    assert found['bytes']['resist'] == pytest.approx(sum(expected) / 5)
    assert found['bytes']['local_sgd'] == found['bytes']['torch_averager'] == pytest.approx(2 * whole)
    # the paper's protocol reduces a shared block to one holder, also if that one does not keep it
    assert found['bytes']['paper'] >= found['bytes']['resist']


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
    # one block comes to be averaged
    assert 0 < memory['resist']['buffers'] <= 3 * TINY_BLOCK_BYTES
    assert memory['resist']['activations'] < memory['local_sgd']['activations']
    assert found['protocols']['local_sgd']['bytes_per_round'] == pytest.approx(2 * whole)
    assert found['protocols']['ddp']['bytes_per_round'] == pytest.approx(4 * 2 * whole)
    assert found['protocols']['resist']['bytes_per_round'] < 2 * whole
    assert 0 < found['iterations']['flops_ratio'] < 1
    assert picture.read_bytes().startswith(b'\x89PNG')


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


def test_bytes_that_are_not_the_plan_s_are_an_error(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from benchmark_exchange import check_bytes

    check_bytes('resist', [10.0, 20.0], [10, None])
    with pytest.raises(RuntimeError, match=r'resist: the workers sent 20\.0 bytes, the plan says 30'):
        check_bytes('resist', [10.0, 20.0], [10, 30])


@pytest.mark.skipif(link_tools_missing(), reason='needs root, ip and tc')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGHUP])
def test_links_are_removed_also_after_ctrl_c_and_with_the_terminal(number):
    before = network_state()
    command = [sys.executable, str(FOLDER / 'benchmark_exchange.py'), '--arch', 'preact_tiny', '--workers', '2']
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    script = subprocess.Popen(
        [*command, '--rounds', '100000', '--link', '1gbit'], cwd=ROOT, env=env, start_new_session=True
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
