"""The paper's tables beside runs that were written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RESIST = 'preact-resnet101_resist_4xb128-160e_cifar10'
LOCAL_SGD = 'preact-resnet101_local-sgd_4xb128-160e_cifar10'


@pytest.fixture
def paper_table(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / 'tools/analysis_tools'))
    import paper_table

    return paper_table


def write_run(work_dir: Path, config: str, accuracies: list[float], workers: int = 4, seconds: float = 10) -> None:
    """Two rounds, each of so many seconds with the exchange, and validations."""
    folder = work_dir / '20260101_000000'
    (folder / 'vis_data').mkdir(parents=True)
    (work_dir / f'{config}.py').touch()
    rounds = [
        f'Round {i}: depth 6 of 22 blocks, 50 iterations in {seconds - 1:.2f} s, exchange in 1.00 s; '
        'sent 90.00 MB, received 90.00 MB, all workers 360.00 MB'
        for i in range(2)
    ]
    (folder / '20260101_000000.log').write_text('\n'.join([f'    GPU number: {workers}', *rounds]))
    lines = [dict(lr=0.03, time=0.2, iter=100, step=100)]
    lines += [{'accuracy/top1': a, 'loss': 1 / a, 'step': 5 * i} for i, a in enumerate(accuracies, start=1)]
    (folder / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, lines)))


def rows(module: ModuleType, folder: Path, table: str) -> dict[tuple[str, str], list[str]]:
    trials = module.find_trials(folder)
    return {(cell.label, cell.quantity): module.row_of(cell, trials)[3:] for cell in module.TABLES[table]}


def test_best_and_final_accuracy_over_trials(paper_table: ModuleType, tmp_path: Path):
    write_run(tmp_path / 'a', RESIST, [90.0, 92.0, 91.0])
    write_run(tmp_path / 'deeper/b', RESIST, [93.0, 94.0, 93.0])
    write_run(tmp_path / 'c', RESIST, [10.0], workers=2)  # not the run that the table is about
    table = rows(paper_table, tmp_path, '2')
    assert table['ResIST, 4 workers, CIFAR-10', 'top-1'] == ['92.35', '93 ± 1.4', '92 ± 1.4', '1.007', '2']
    assert table['ResIST, 2 workers, CIFAR-10', 'top-1'] == ['91.95', 'no run', 'no run', '', '0']


def test_seconds_and_speed_up(paper_table: ModuleType, tmp_path: Path):
    write_run(tmp_path / 'a', RESIST, [90.0], seconds=10)
    table = rows(paper_table, tmp_path, '4')
    assert table['ResIST, 4 workers, CIFAR-10', 'seconds'][1] == '20'
    assert table['ResIST, 4 workers, CIFAR-10', 'speed-up'] == ['3.58', 'no run', 'no run', '', '0']
    write_run(tmp_path / 'b', LOCAL_SGD, [90.0], seconds=35)
    table = rows(paper_table, tmp_path, '4')
    assert table['ResIST, 4 workers, CIFAR-10', 'speed-up'][1] == '3.5'


def test_bytes(paper_table: ModuleType, tmp_path: Path):
    write_run(tmp_path, 'preact-resnet101_resist_4xb128-160e_cifar100', [70.0])
    assert rows(paper_table, tmp_path, '1')['ResIST, 4 workers, CIFAR-100', 'GB a round'][1] == '0.36'
    assert rows(paper_table, tmp_path, 'fig8')['ResIST, 4 workers, CIFAR-100', 'GB'][1] == '0.72'


def test_time_to_a_target(paper_table: ModuleType, tmp_path: Path):
    write_run(tmp_path, 'preact-resnet101_resist_4xb256-90e_in1k', [60.0, 70.7, 71.0, 72.0], seconds=3600)
    assert rows(paper_table, tmp_path, '5')['ResIST, 4 workers, ImageNet', 'hours to 70.7'][1] == '1'


def test_separate_tests_of_a_run(paper_table: ModuleType, tmp_path: Path):
    member = tmp_path / 'preact-resnet36-shallow4_1xb128-40e_cifar10'
    write_run(member / '0', member.name, [80.0], workers=1)
    tested = member / 'ensemble/20260102_000000'
    tested.mkdir(parents=True)
    (tested / '20260102_000000.log').touch()
    (tested / '20260102_000000.json').write_text(json.dumps({'accuracy/top1': 91.0}))
    assert rows(paper_table, tmp_path, '7')['ensemble of 4, CIFAR-10', 'top-1'][1] == '91'


def test_every_cell_has_a_config(paper_table: ModuleType):
    configs = {path.stem for path in (ROOT / 'configs').rglob('*.py')}
    missing = {cell.config for cells in paper_table.TABLES.values() for cell in cells} - configs
    assert not missing


@pytest.mark.parametrize('style', ['text', 'markdown', 'csv'])
def test_styles(paper_table: ModuleType, tmp_path: Path, monkeypatch, capsys, style: str):
    write_run(tmp_path, RESIST, [92.0])
    monkeypatch.setattr('sys.argv', ['paper_table.py', '2', '--runs', str(tmp_path), '--format', style])
    paper_table.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(paper_table.TABLES['2']) + (2 if style == 'markdown' else 1)
    line = next(
        line for line in lines if 'ResIST, 4 workers, CIFAR-10,' in line.replace('"', ',') or '92.35' in line
    )
    assert '92' in line and ('|' in line) == (style == 'markdown')


def test_no_such_folder(paper_table: ModuleType, tmp_path: Path, monkeypatch):
    monkeypatch.setattr('sys.argv', ['paper_table.py', '--runs', str(tmp_path / 'x')])
    with pytest.raises(SystemExit, match='name the one that the work dirs are in'):
        paper_table.main()
