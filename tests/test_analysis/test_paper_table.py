"""The paper's tables beside runs that were written by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mmengine.config import Config

from resist_mm.analysis.paper import table as paper_table
from resist_mm.analysis.paper.trainings import TRAININGS

ROOT = Path(__file__).parents[2]
RESIST = 'preact-resnet101_resist_4xb128-160e_cifar10'
LOCAL_SGD = 'preact-resnet101_local-sgd_4xb128-160e_cifar10'


def write_run(
    work_dir: Path,
    name: str,
    accuracies: list[float],
    workers: int | None = None,
    seconds: tuple[float, ...] = (10, 10),
    epochs: int | None = None,
    loss: str = 'test/loss',
) -> None:
    """A run of a round of ``seconds[i]`` before validation i; logged as mmengine does."""
    folder = work_dir / '20260101_000000'
    (folder / 'vis_data').mkdir(parents=True)
    length = 5 * len(accuracies) if epochs is None else epochs
    training = TRAININGS[name]
    cfg = Config.fromfile(ROOT / 'configs' / training.config, format_python_code=False)
    cfg.merge_from_dict(dict(training.options))
    cfg.train_cfg.max_epochs = length
    cfg.dump(work_dir / Path(training.config).name)
    lines = [f'    GPU number: {workers or training.workers}']
    scalars = [dict(lr=0.03, time=0.2, iter=100, step=100)]
    for i, accuracy in enumerate(accuracies):
        if i < len(seconds):
            lines.append(
                f'2026/01/01 - mmengine - INFO - Round {i}: depth 6 of 22 blocks, 50 iterations in '
                f'{seconds[i] - 1:.2f} s, exchange in 1.00 s; sent 90.00 MB, received 90.00 MB, '
                'all workers 360.00 MB'
            )
        step = 5 * (i + 1)
        lines.append(f'2026/01/01 - mmengine - INFO - Epoch(val) [{step}][20/20]    eta: 0:00:00  time: 0.1')
        lines.append(f'2026/01/01 - mmengine - INFO - Epoch(val) [{step}][20/20]    accuracy/top1: {accuracy}')
        scalars.append({'accuracy/top1': accuracy, loss: 1 / accuracy, 'step': step})
    (folder / '20260101_000000.log').write_text('\n'.join(lines))
    (folder / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, scalars)))


def write_test(work_dir: Path, accuracy: float, workers: int = 1) -> None:
    """What tools/test.py leaves in a work dir."""
    folder = work_dir / '20260102_000000'
    (folder / 'vis_data').mkdir(parents=True)
    (folder / '20260102_000000.log').write_text(f'    GPU number: {workers}\n')
    (folder / '20260102_000000.json').write_text(json.dumps({'accuracy/top1': accuracy}))
    (folder / 'vis_data/scalars.json').write_text(json.dumps({'accuracy/top1': accuracy}))


def rows(folder: Path, table: str) -> dict[tuple[str, str], list[str]]:
    trials = paper_table.find_trials(folder)
    return {
        (cell.label, cell.quantity): paper_table.row_of(cell, trials)[3:] for cell in paper_table.TABLES[table]
    }


def test_best_and_final_accuracy_over_trials(tmp_path: Path):
    write_run(tmp_path / 'a', RESIST, [90.0, 92.0, 91.0])
    write_test(tmp_path / 'a', 92.0)  # with one process
    write_run(tmp_path / 'deeper/b', RESIST, [93.0, 94.0, 93.0])
    write_run(tmp_path / 'c', RESIST, [10.0], workers=2)  # not the run that the table is about
    table = rows(tmp_path, '2')
    assert table['ResIST, 4 workers, CIFAR-10', 'top-1'] == ['92.35 ± 0.22', '93 ± 1.4', '92 ± 1.4', '1.007', '2']
    assert table['ResIST, 2 workers, CIFAR-10', 'top-1'] == ['91.95 ± 0.32', 'no run', 'no run', '', '0']


def test_seconds_and_speed_up(tmp_path: Path):
    write_run(tmp_path / 'a', RESIST, [90.0, 90.0])
    table = rows(tmp_path, '4')
    assert table['ResIST, 4 workers, CIFAR-10', 'seconds'][1] == '20'
    assert table['ResIST, 4 workers, CIFAR-10', 'speed-up'] == ['3.6', 'not logged', 'not logged', '', '1']
    write_run(tmp_path / 'b', LOCAL_SGD, [90.0, 90.0], seconds=(35, 35))
    table = rows(tmp_path, '4')
    assert table['ResIST, 4 workers, CIFAR-10', 'speed-up'] == ['3.6', '3.5', '3.5', '0.972', '1']


def test_bytes(tmp_path: Path):
    write_run(tmp_path / 'a', 'preact-resnet101_resist_4xb128-160e_cifar100', [70.0, 70.0])
    row = rows(tmp_path, '1')['ResIST, 4 workers, CIFAR-100', 'GB a round']
    assert row == ['0.72', '0.36', '0.36', '', '1'], 'the paper counts another way: no ratio'
    assert rows(tmp_path, 'fig8')['ResIST, 4 workers, CIFAR-100', 'GB'][1] == '0.72'
    write_run(tmp_path / 'b', 'preact-resnet101_ddp_4xb128-160e_cifar100', [70.0], seconds=())
    table = rows(tmp_path, 'fig8')
    assert table['data-parallel, 4 workers, CIFAR-100', 'GB'][1:] == ['not logged', 'not logged', '', '1']
    assert table['data-parallel, 4 workers, CIFAR-100', 'top-1'][1] == '70'


def test_time_to_a_target_adds_up_the_rounds_before_it(tmp_path: Path):
    config = 'preact-resnet101_resist_4xb256-90e_in1k'
    write_run(tmp_path, config, [60.0, 70.6, 70.7, 72.0], seconds=(7200, 3600, 1800, 1800))
    assert rows(tmp_path, '5')['ResIST, 4 workers, ImageNet', 'hours to 70.7'][1] == '3.5'
    assert rows(tmp_path, '3')['ResIST, 4 workers, ImageNet', 'hours'][1] == '4'


def test_rounds_that_were_lost_before_resuming_do_not_count(tmp_path: Path):
    config = 'preact-resnet101_resist_4xb256-90e_in1k'
    write_run(tmp_path, config, [60.0, 61.0, 62.0], seconds=(3600, 3600, 3600), epochs=10)
    (first,) = tmp_path.glob('2*/*.log')
    again = tmp_path / '20260101_120000'
    (again / 'vis_data').mkdir(parents=True)
    # resumed behind the first round, with faster rounds
    lines = first.read_text().replace('in 3599.00 s', 'in 1799.00 s').splitlines()
    lines = [line for line in lines if 'Round 0' not in line and '[5]' not in line and '[15]' not in line]
    (again / f'{again.name}.log').write_text('\n'.join(line for line in lines if 'Round 2' not in line))
    scalars = [dict(lr=0.03, time=0.2, iter=300, step=300), {'accuracy/top1': 71.0, 'step': 10}]
    (again / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, scalars)))
    # an hour of the first run and half an hour of the second
    assert rows(tmp_path, '5')['ResIST, 4 workers, ImageNet', 'hours to 70.7'][1] == '1.5'
    assert rows(tmp_path, '3')['ResIST, 4 workers, ImageNet', 'hours'][1] == '1.5'


def test_time_to_a_target_without_rounds(tmp_path: Path):
    config = 'preact-resnet101_local-sgd_4xb256-90e_in1k'
    write_run(tmp_path, config, [60.0, 71.0], seconds=())
    # 100 iterations of 0.2 seconds
    row = rows(tmp_path, '5')['local SGD, 4 workers, ImageNet', 'hours to 70.7']
    assert row[1] == f'{20 / 3600:.4g}'


def test_the_test_loss_of_detection_is_found_under_the_name_that_its_config_gives_it(tmp_path: Path):
    name = Config.fromfile(ROOT / 'configs/yolo_resist_voc.py').default_hooks.checkpoint.save_best[0]
    write_run(tmp_path, 'yolo_resist_4xb10-100e_voc', [0.125, 0.2, 0.16], loss=name)
    row = rows(tmp_path, '6')['ResIST, 4 workers, Pascal VOC', 'test loss']
    assert row == ['6.69', '5', '6.25', '0.747', '1']


def test_runs_that_are_not_finished_are_left_out(tmp_path: Path, monkeypatch, capsys):
    write_run(tmp_path / 'a', RESIST, [90.0])
    write_run(tmp_path / 'b', RESIST, [80.0], epochs=160)
    monkeypatch.setattr('sys.argv', ['paper_table.py', '2', '--runs', str(tmp_path)])
    paper_table.main()
    out, err = capsys.readouterr()
    assert '80' not in out
    assert f'left out: {tmp_path}/b has come to 5 of 160' in err
    assert rows(tmp_path, '2')['ResIST, 4 workers, CIFAR-10', 'top-1'][1:] == [
        '90',
        '90',
        '0.975',
        '1',
    ]


def test_an_unknown_table(monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', ['paper_table.py', '10'])
    with pytest.raises(SystemExit):
        paper_table.main()
    assert 'there is no table 10; there are 1, 2' in capsys.readouterr().err


def test_separate_tests_of_a_run(tmp_path: Path):
    member = tmp_path / 'preact-resnet36-shallow4_1xb128-40e_cifar10'
    write_run(member / '0', member.name, [80.0])
    write_test(member / 'ensemble', 91.0)
    assert rows(tmp_path, '7')['ensemble of 4, CIFAR-10', 'top-1'][1] == '91'


def test_runs_of_one_config_are_told_apart_by_their_options(tmp_path: Path):
    name = 'preact-resnet101_resist-{}bit_4xb128-160e_cifar10'
    for bits, accuracy in ((8, 91.0), (4, 70.0)):
        write_run(tmp_path / str(bits), name.format(bits), [accuracy])
    table = rows(tmp_path, '9')
    found = {label: row[1] for (label, _), row in table.items() if row[1] != 'no run'}
    assert found == {'8 bit, CIFAR-10': '91', '4 bit, CIFAR-10': '70'}
    assert rows(tmp_path, '2')['ResIST, 4 workers, CIFAR-10', 'top-1'][1] == 'no run'


def test_every_training_is_in_a_table_and_every_cell_has_one():
    cells = [cell for of_table in paper_table.TABLES.values() for cell in of_table]
    assert {cell.training for cell in cells} == set(TRAININGS)
    assert {cell.baseline for cell in cells} <= {*TRAININGS, ''}


@pytest.mark.parametrize('style', ['text', 'markdown', 'csv'])
def test_styles(tmp_path: Path, monkeypatch, capsys, style: str):
    write_run(tmp_path, RESIST, [92.0])
    monkeypatch.setattr('sys.argv', ['paper_table.py', '2', '--runs', str(tmp_path), '--format', style])
    paper_table.main()
    lines = capsys.readouterr().out.splitlines()
    assert 'GB' not in lines[-1], 'no note where there are no bytes'
    assert len(lines) == len(paper_table.TABLES['2']) + (2 if style == 'markdown' else 1)
    line = next(
        line for line in lines if 'ResIST, 4 workers, CIFAR-10,' in line.replace('"', ',') or '92.35' in line
    )
    assert '92' in line and ('|' in line) == (style == 'markdown')


def test_no_such_folder(tmp_path: Path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['paper_table.py', '--runs', str(tmp_path / 'x')])
    with pytest.raises(SystemExit, match='name the one that the work dirs are in'):
        paper_table.main()
