"""comm_cost.py on the paper's networks and on configs, beside what the paper and the real networks say."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys

import pytest
import torch

from resist_mm.analysis import named_networks
from resist_mm.analysis.cost import comm_cost
from tests.test_tools.commands import ROOT

CIFAR100 = ('--arch', 'preact_resnet101', '--dataset', 'cifar100', '--workers', 2, 4, 8)


@pytest.fixture
def run_comm_cost(monkeypatch, capsys):
    """Run the command in this process, which has imported torch; gives what it prints."""

    def run(*args):
        monkeypatch.setattr(sys, 'argv', ['comm_cost.py', *map(str, args)])
        try:
            comm_cost.main()
        except SystemExit as stop:
            assert stop.code
            return f'{stop.code} {capsys.readouterr().err}'
        return capsys.readouterr().out

    return run


@pytest.fixture
def costs(run_comm_cost):
    """The same, what it prints with --json."""
    return lambda *args: json.loads(run_comm_cost(*args, '--json'))


def figures(rows, protocol, key):
    return [round(row[key], 4) for row in rows if row['protocol'] == protocol]


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


def test_the_table_names_both_ways_of_counting_and_a_picture_is_drawn(tmp_path, run_comm_cost):
    picture = tmp_path / 'cost.png'
    out = run_comm_cost('--workers', 4, '--codec', 'none', 'q6', '--plot', picture)
    assert 'paper counting' in out and 'wire counting' in out
    assert 'q6' in out
    assert picture.read_bytes().startswith(b'\x89PNG')


def test_comm_cost_starts_without_mmdet():
    code = "import sys; from resist_mm.analysis.cost import comm_cost; print('mmdet' in sys.modules)"
    out = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, check=True)
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


def test_a_moving_average_of_a_config_is_counted(config, costs, run_comm_cost):
    options = ('--config', config, '--workers', 2, '--num-images', 100, '--image-size', 32, 32)
    plain = {row['protocol']: row for row in costs(*options)}
    with config.open('a') as file:
        file.write("custom_hooks.append(dict(type='EMAHook', momentum=0.1))\n")
    averaged = {row['protocol']: row for row in costs(*options)}
    for key in ('paper_gb_per_round', 'wire_gb_per_round', 'wire_gb_per_run'):
        for protocol in ('resist', 'local_sgd'):
            assert averaged[protocol][key] == pytest.approx(2 * plain[protocol][key])
        for protocol in ('ddp', 'gpipe'):
            assert averaged[protocol][key] == plain[protocol][key]
    assert 'a moving average of the weights travels' in run_comm_cost(*options)
    with config.open('a') as file:
        file.write("custom_hooks[0].update(codec=dict(type='quantize', bits=6))\n")
    coded = {row['protocol']: row for row in costs(*options)}
    more = coded['local_sgd']['wire_gb_per_round'] - plain['local_sgd']['wire_gb_per_round']
    assert 0 < more < 0.3 * plain['local_sgd']['wire_gb_per_round'], 'the weights compressed, the average not'
    with config.open('a') as file:
        file.write('custom_hooks[1].update(begin_epoch=1)\n')
    assert 'counted from the first round, though it begins later' in run_comm_cost(*options)


def test_validations_of_a_config_are_counted(config, costs):
    options = ('--workers', 2, '--num-images', 100, '--image-size', 32, 32)
    text = config.read_text().replace('local_iters=7, ', '')
    config.write_text(text)
    resist = costs('--config', config, *options)[0]
    # 50 is the default of the hook
    assert (resist['local_iters'], resist['rounds'], resist['whole_rounds']) == (50, 1, 1)
    config.write_text(
        f"{text}custom_hooks[0]['local_iters'] = 7\nval_cfg = dict()\ntrain_cfg['val_interval'] = 1\n"
    )
    resist = costs('--config', config, *options)[0]
    # two epochs of ten iterations: rounds of 7 and 3, twice
    assert (resist['rounds'], resist['whole_rounds']) == (4, 2)
    config.write_text(
        f"{text}custom_hooks[0]['local_iters'] = 7\ntrain_cfg = dict(max_iters=20)\n"
        'default_hooks = dict(checkpoint=dict(by_epoch=False, interval=5))\n'
    )
    resist = costs('--config', config, *options)[0]
    assert (resist['rounds'], resist['whole_rounds']) == (4, 4)


def test_what_a_config_does_not_say_is_asked_for(config, run_comm_cost):
    text = config.read_text()
    config.write_text(text.split('custom_hooks')[0])
    assert 'give --local-iters' in run_comm_cost('--config', config)
    assert 'give --batch-size' in run_comm_cost('--config', config, '--local-iters', 5)
    config.write_text(text.replace('PreActResNet', 'NoSuchNet'))
    assert 'config.py cannot be built' in run_comm_cost('--config', config)


def test_a_config_that_inherits_from_this_package_and_one_of_mmdet(costs, run_comm_cost, tmp_path):
    pytest.importorskip('mmdet')
    options = ('--workers', 2, '--local-iters', 5, '--num-images', 100)
    config = tmp_path / 'shapes.py'
    bases = [f'resist_mm::_base_/{name}.py' for name in ('custom_yolov2-small', 'datasets/custom_voc')]
    config.write_text(f"_base_ = {bases}\nclasses = tuple('abcde')\nimage_size = 128\ndata_root = 'none/'\n")
    found, same = (
        [row['wire_gb_per_round'] for row in costs('--config', path, *options) if row['protocol'] == 'local_sgd']
        for path in (config, ROOT / 'configs/quickstart/yolo_resist_shapes.py')
    )
    assert found == same
    of_mmdet = costs('--config', 'mmdet::ssd/ssd300_coco.py', *options)
    assert of_mmdet[0]['wire_gb_per_round'] * 1e9 == pytest.approx(2 * 4 * 34_305_206), 'averaged by two workers'
    assert 'there is no config file nope.py' in run_comm_cost('--config', 'nope.py')


def test_costs_of_a_real_config(costs):
    config = ROOT / 'configs/cifar/preact-resnet101_resist_4xb128-160e_cifar100.py'
    rows = costs('--config', config, '--workers', 4, '--num-images', 50_000, '--codec', 'q6')
    named = costs('--arch', 'preact_resnet101', '--workers', 4, '--codec', 'q6')
    for found, expected in zip(rows, named, strict=True):
        assert found['wire_gb_per_round'] == pytest.approx(expected['wire_gb_per_round'])
        # a validation after every fifth of 160 epochs of 98 iterations: nine full rounds and one of 40
        assert (found['rounds'], found['whole_rounds'], expected['rounds']) == (320, 32, 314)
    exact = 2 * 3 * 4 * (41_396_900 - 22 * 1_180_672) / 1e9  # of the shared part alone
    assert rows[0]['wire_gb_per_run'] > 288 * rows[0]['wire_gb_per_round'] + 32 * exact


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
def test_comm_cost_says_what_is_wrong(run_comm_cost, args, words):
    assert words in run_comm_cost(*args)


@pytest.mark.parametrize(
    'name', ['preact_resnet101', 'preact_resnet152', 'preact_resnet200', 'resnet101', 'resnet152']
)
def test_sizes_of_named_networks_are_those_of_the_real_ones(name):
    from resist_mm.models import partitioned_stages

    classes = 10
    with torch.device('meta'):
        model = named_networks.build_classifier(name, classes)
    size = named_networks.ARCHITECTURES[name].size(classes, (64, 64))
    stages = partitioned_stages(model).values()
    blocks = [s.block_parameters(n) for s in stages for n in range(s.num_partitioned)]
    assert [block.weights for block in size.blocks] == [sum(p.numel() for p in b if p.dim() > 1) for b in blocks]
    assert [block.total for block in size.blocks] == [sum(p.numel() for p in b) for b in blocks]
    assert size.whole.weights == sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert size.whole.total == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize('name', ['preact_tiny', 'resnet50'])
@pytest.mark.parametrize('image_size', [(32, 32), (75, 130)])
def test_activations_of_named_networks_are_those_of_the_real_ones(name, image_size):
    from torch import nn

    numels = []
    model = named_networks.build_classifier(name, 2)
    for stage in (getattr(model[0], stage) for stage in model[0].res_layers):
        for block in stage if isinstance(stage, nn.Sequential) else stage.children():
            block.register_forward_hook(lambda module, args, output: numels.append(output.numel()))
    model.eval()(torch.zeros(1, 3, *image_size))
    assert named_networks.ARCHITECTURES[name].size(2, image_size).activations == tuple(numels)


def test_resnet101_for_imagenet_has_the_known_number_of_parameters():
    assert named_networks.ARCHITECTURES['resnet101'].size(1000, (224, 224)).whole.total == 44_549_160


BLOCKS = re.findall(r'```\w*\n(.*?)```', (ROOT / 'docs/benchmarks.md').read_text(), re.DOTALL)
SHOWN = [(c, out) for c, out in itertools.pairwise(BLOCKS) if 'comm_cost.py' in c]


@pytest.mark.parametrize(('command', 'shown'), SHOWN, ids=[f'block {i}' for i in range(len(SHOWN))])
def test_what_the_page_of_benchmarks_shows_comes_out(command, shown, run_comm_cost):
    words = command.replace('\\\n', ' ').split()
    assert words[:2] == ['python', 'tools/analysis_tools/comm_cost.py']
    assert run_comm_cost(*words[2:]).strip() == shown.strip()
