"""The rows of docs/results: their configs, going on after an interruption, records and tables."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import pytest
import torch
from mmengine.config import Config, DictAction
from mmengine.registry import DefaultScope
from PIL import Image

from resist_mm.analysis.paper.commands import as_options
from resist_mm.analysis.reproduce import detections, running
from resist_mm.analysis.reproduce.detections import (
    COLUMNS,
    GAP,
    GAP_BETWEEN_PAIRS,
    HEIGHT,
    WIDTH,
    draw_detections,
    draw_pair,
    tile,
)
from resist_mm.analysis.reproduce.records import record_of, thinned_log, write_record
from resist_mm.analysis.reproduce.report import seconds_of, write_report
from resist_mm.analysis.reproduce.rows import ROWS, SETS, Row, rows_of
from resist_mm.checkpoint import WorkDirInUse, lock_folder, write_checkpoint
from resist_mm.hooks.cpu_seconds_hook import KEY as CPU_SECONDS
from resist_mm.registry import HOOKS, MODELS
from tests import generated_sets
from tests.test_configs import shrink
from tests.test_tools.commands import ROOT
from tests.toy import ToyRunner

VOC_TRAIN, SHAPES_TRAIN = 1600, 300  # pictures


@pytest.mark.parametrize('row', ROWS, ids=lambda row: row.name)
def test_all_rows_of_a_set_train_on_the_same_number_of_images(row: Row):
    cfg = Config.fromfile(ROOT / 'configs' / row.config, import_custom_modules=False)
    parser = ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    options = parser.parse_args(['--cfg-options', *as_options(row.all_options)]).cfg_options
    assert options == row.all_options, 'the command line says something else'
    for key in row.options:  # what is overridden is there, or an argument of a hook or the model
        value = cfg
        for part in () if key.startswith(('custom_hooks.', 'model.')) else key.split('.'):
            value = value[int(part)] if isinstance(value, list) else value[part]
    cfg.merge_from_dict(options)
    for hook in cfg.get('custom_hooks', []):
        HOOKS.build(hook)
    if row.options:
        with DefaultScope.overwrite_default_scope(cfg.default_scope):
            MODELS.build(cfg.model)
    batch = cfg.train_dataloader.batch_size * row.workers
    assert cfg.randomness.seed == row.seed
    if row.results == 'voc':
        assert VOC_TRAIN % batch == 0 and cfg.train_cfg.max_epochs == 100
        return
    if row.results == 'shapes':
        assert SHAPES_TRAIN % batch == 0 and cfg.train_cfg.max_epochs == 30
        return
    iters = cfg.train_cfg.max_iters
    if row.results == 'options':
        assert iters * batch == 153_600 and cfg.train_cfg.val_interval % cfg.custom_hooks[0].local_iters == 0
        return
    assert iters * batch == 1_024_000
    assert (
        cfg.default_hooks.checkpoint.interval == cfg.train_cfg.val_interval
        and iters % cfg.train_cfg.val_interval == 0
    )
    warm_up, decay = cfg.param_scheduler
    assert warm_up.end == decay.begin and decay.begin + decay.T_max == decay.end == iters
    for hook in cfg.get('custom_hooks', []):
        assert cfg.train_cfg.val_interval % hook.local_iters == 0, 'validation cuts rounds'


def test_names_are_unique_and_the_most_telling_rows_come_first():
    assert len({row.name for row in ROWS}) == len(ROWS)
    assert [row.name for row in rows_of(['cifar10'])[:3]] == [
        f'cifar10_{protocol}_4workers_seed0' for protocol in ('resist', 'local-sgd', 'ddp')
    ]
    assert {row.results for row in rows_of(['voc'])} == {'voc'}
    assert rows_of(['all']) == list(ROWS)


# stands in for the training: appends to a file whether it is resumed; then leaves a checkpoint, or is finished
TRAINING = """
import json, pathlib, shutil, sys
work_dir, checkpoint, end = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with open(work_dir.parent / 'starts.txt', 'a') as file:
    file.write(f"{'--resume' in sys.argv} {(work_dir / 'left').exists()}\\n")
(work_dir / 'left').touch()
starts = len(open(work_dir.parent / 'starts.txt').readlines())
if end == 'never' or starts < 3:
    if starts == 2:
        shutil.copy(checkpoint, work_dir / 'iter_1.pth')
    sys.exit(1)
log = work_dir / '1' / '1.log'
(log.parent / 'vis_data').mkdir(parents=True)
log.write_text('Iter(val) [1/1]')
(log.parent / 'vis_data' / 'scalars.json').write_text(json.dumps(dict(step=4)))
(work_dir / 'config.py').write_text("train_cfg = dict(max_iters=4, type='IterBasedTrainLoop')")
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Puts a script in the place of the training, which fails twice, or always."""
    checkpoint = tmp_path / 'whole.pth'
    torch.save(dict(meta=dict(iter=1), message_hub={}, state_dict={}), checkpoint)

    def command(end: str) -> None:
        def command_of(row: Row, folder: Path, resume: bool = False) -> list[str]:
            script = [sys.executable, '-S', '-c', TRAINING, f'{folder}/{row.name}', str(checkpoint), end]
            return [*script, *['--resume'] * resume]

        monkeypatch.setattr(running, 'command_of', command_of)

    return command


def test_a_row_goes_on_from_its_checkpoint_and_a_finished_one_is_not_run_again(tmp_path: Path, stand_in):
    stand_in('third start')
    folder, done = tmp_path / 'runs', []
    assert running.run_rows(ROWS[:1], folder, done.append) == []
    # without a checkpoint it begins anew, and nothing is left of the first attempt; with one it goes on
    assert (folder / 'starts.txt').read_text().splitlines() == ['False False', 'False False', 'True True']
    assert done == [ROWS[0]]
    assert running.spent_seconds(folder / ROWS[0].name) > 0
    assert running.run_rows(ROWS[:1], folder, done.append) == []
    assert done == [ROWS[0]] * 2 and len((folder / 'starts.txt').read_text().splitlines()) == 3


def test_a_row_that_fails_does_not_keep_the_others_from_running(tmp_path: Path, stand_in):
    stand_in('never')
    assert running.run_rows(ROWS[:2], tmp_path / 'runs', pytest.fail) == list(ROWS[:2])
    assert len((tmp_path / 'runs/starts.txt').read_text().splitlines()) == 2 * running.ATTEMPTS


def test_two_do_not_run_rows_in_one_folder(tmp_path: Path):
    holder = subprocess.Popen(
        [sys.executable, '-c', f'import time, fcntl; file = open({str(tmp_path / "in_use.lock")!r}, "a");'
         'fcntl.flock(file, fcntl.LOCK_EX); print("held", flush=True); time.sleep(60)'],
        stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert holder.stdout is not None and holder.stdout.readline()
        with pytest.raises(WorkDirInUse, match='in use'):
            running.run_rows(ROWS[:1], tmp_path, pytest.fail)
    finally:
        holder.kill()
        holder.wait()
    assert lock_folder(tmp_path) is None


@pytest.fixture(scope='module')
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Row, Path]:
    """A work dir of two iterations, one validation after each; the second after resuming."""
    row, root = ROWS[0], tmp_path_factory.mktemp('trained')
    work_dir = root / row.name
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv('RESIST_MM_CIFAR10', str(generated_sets.make_cifar10(root / 'cifar10')))
        generated_sets.without_checksums(monkeypatch)
        for iters in (1, 2):
            cfg = Config.fromfile(ROOT / 'configs' / row.config)
            shrink(cfg)
            cfg.train_cfg.update(max_iters=iters, val_interval=1)
            cfg.default_hooks.checkpoint.interval = 1
            cfg.default_hooks.logger.interval = 1
            cfg.work_dir, cfg.launcher, cfg.resume = str(work_dir), 'none', iters == 2
            cfg.experiment_name = f'reproduce_{iters}'
            ToyRunner.from_cfg(cfg).train()
            if iters == 1:
                hub = torch.load(work_dir / 'iter_1.pth', weights_only=False)['message_hub']
                (root / 'kept.json').write_text(json.dumps(hub['runtime_info'][CPU_SECONDS]))
            time.sleep(1.1)  # logs are named after the second
    return row, work_dir


def test_a_record_has_the_course_of_the_run_with_its_cpu_seconds(trained: tuple[Row, Path]):
    row, work_dir = trained
    record = record_of(row, work_dir)
    assert (record['config'], record['seed'], record['local_iters']) == (f'configs/{row.config}', 0, 1)
    assert {'torch', 'resist_mm', 'python', 'onedl-mmengine'} <= record['versions'].keys()
    first, last = record['course']
    assert (first['step'], last['step']) == (1, 2)
    assert last['images'] == 2 * first['images'] == 2 * record['batch_size'] * row.workers
    # the second was resumed in a new Runner, and has gone on counting; what saving took is not in the checkpoint
    (kept,) = json.loads((work_dir.parent / 'kept.json').read_text())
    assert 0 < kept <= first['cpu_sec'] and kept < last['cpu_sec'] == record['cpu_sec']
    assert all(0 <= point['accuracy/top1'] <= 100 for point in record['course'])
    assert running.finished(work_dir)


def test_what_is_committed_names_no_folder_of_the_machine(trained: tuple[Row, Path], tmp_path: Path):
    row, work_dir = trained
    log = thinned_log(work_dir)
    assert 'Iter(train)' in log and 'Iter(val)' in log and 'Round 0: depth' in log
    write_record(row, work_dir, tmp_path)
    for text in (log, (tmp_path / f'{row.name}.json').read_text()):
        assert str(work_dir) not in text and '/tmp' not in text and '/root' not in text
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_record(row, work_dir, tmp_path)
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_table_and_pictures_come_from_the_records_alone(tmp_path: Path):
    rows = {(row.protocol, row.workers, row.seed): row for row in rows_of(['cifar10'])}
    of_three = [rows['resist', 4, 0], rows['ddp', 4, 0], rows['resist', 4, 2]]
    for row, accuracy in zip(of_three, (80.0, 86.0, 84.0), strict=True):
        course = [
            {
                'step': i,
                'images': 100 * i,
                'bytes': i * 10**9,
                'cpu_sec': 7.0 * i,
                'accuracy/top1': accuracy - 2 + i,
            }
            | {'test/loss': 1 / i}
            for i in (1, 2)
        ]
        record = dict(name=row.name, label=row.label, protocol=row.protocol, workers=row.workers, seed=row.seed)
        record |= dict(
            command='COMMAND', images=200, bytes=2 * 10**9, cpu_sec=14.0, machine='a machine', course=course
        )
        (tmp_path / f'{row.name}.json').write_text(
            json.dumps(record | dict(versions={'torch': '2'}, ap_by_class={}))
        )
    write_report('cifar10', tmp_path)
    lines = (tmp_path / 'README.md').read_text().splitlines()
    seed, other, ddp = (f'[{row.seed}]({row.name}.log.gz)' for row in (of_three[0], of_three[2], of_three[1]))
    of_both = '82.00 ± 2.8 | 0.5000 ± 0 | 82.00 ± 2.8 | 200 | 2.000 ± 0 | 14 ± 0'
    assert f'| ResIST, 4 workers | {seed}, {other} | {of_both} |' in lines
    assert f'| data-parallel, 4 workers | {ddp} | 86.00 | 0.5000 | 86.00 | 200 | 2.000 | 14 |' in lines
    assert lines.count('COMMAND') == 2, 'one for each label'
    for name in ('by_bytes.png', 'by_bytes.svg', 'by_time.png', 'by_time.svg'):
        assert (tmp_path / name).stat().st_size > 1000
    # 1 GB of each of four workers over 1 Gbit/s
    assert seconds_of(dict(workers=4), dict(bytes=4e9, cpu_sec=5.0)) == pytest.approx(13.0)
    assert set(SETS) >= {row.results for row in ROWS}
    pictures = [(tmp_path / name).read_bytes() for name in ('by_bytes.svg', 'by_time.svg')]
    write_report('cifar10', tmp_path)
    assert pictures == [(tmp_path / name).read_bytes() for name in ('by_bytes.svg', 'by_time.svg')]


@pytest.mark.parametrize('results', SETS)
def test_the_report_in_the_documents_is_of_the_records_beside_it(results: str, tmp_path: Path):
    documents = ROOT / 'docs/results' / results
    for kept in [*documents.glob('*.json'), *documents.glob('*.jpg')]:
        shutil.copy(kept, tmp_path)
    write_report(results, tmp_path)
    report, pictures = (documents / 'README.md').read_text(), list(tmp_path.glob('by_*'))
    assert (tmp_path / 'README.md').read_text() == report
    assert sorted(path.name for path in pictures) == sorted(path.name for path in documents.glob('by_*'))
    assert bool(pictures) == SETS[results].drawn_course
    for drawn in tmp_path.glob('*.svg'):
        assert drawn.read_bytes() == (documents / drawn.name).read_bytes(), 'or another matplotlib?'


def test_detections_of_the_last_checkpoint_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip('mmdet')
    Image.new('RGB', (160, 60), 'lime').save(tmp_path / '000001.png')

    def fake_run(command: list[str], cwd: Path, **options: object) -> None:
        assert command[-1] == 'model.bbox_head.loss=bce'
        assert command[1] == 'tools/test.py' and (cwd / command[1]).is_file() and Path(command[3]).is_file()
        out = cwd / command[command.index('--out') + 1]  # as tools/test.py does
        out.parent.mkdir(parents=True)
        out.write_bytes(pickle.dumps([prediction_of(tmp_path / '000001.png')]))

    work_dir, out = tmp_path / 'work', tmp_path / 'out'
    work_dir.mkdir()
    out.mkdir()
    (row,) = (row for row in rows_of(['voc']) if row.variant == 'bce')
    assert draw_detections(row, work_dir, out) is None
    checkpoint = dict(meta={}, state_dict=dict(weight=torch.ones(1)), message_hub={})
    write_checkpoint(checkpoint, work_dir / 'epoch_1.pth')
    monkeypatch.setattr(detections.subprocess, 'run', fake_run)
    monkeypatch.chdir(tmp_path)
    assert draw_detections(row, Path('work'), out) == out / f'{row.name}.jpg'
    with Image.open(out / f'{row.name}.jpg') as sheet:
        assert sheet.size == (COLUMNS * (2 * WIDTH + GAP) + GAP_BETWEEN_PAIRS, HEIGHT)


def prediction_of(path: Path) -> dict:
    """Of a picture of 160 x 60: one box that is there; two that were found, one of which is too uncertain."""
    there = dict(bboxes=torch.tensor([[10.0, 10, 50, 50]]), labels=torch.tensor([0]))
    boxes = torch.tensor([[100.0, 10, 150, 50], [10, 10, 50, 50]])
    found = dict(bboxes=boxes, labels=torch.tensor([1, 0]), scores=torch.tensor([0.9, 0.2]))
    return dict(img_path=str(path), gt_instances=there, pred_instances=found)


def test_a_pair_shows_what_is_there_beside_what_was_found(tmp_path: Path):
    Image.new('RGB', (160, 60), 'lime').save(tmp_path / '1.png')
    pair = draw_pair(prediction_of(tmp_path / '1.png'), ('one', 'two'), ((255, 0, 0), (0, 0, 255)))
    assert pair.size == (2 * WIDTH + GAP, HEIGHT)
    scale, right = WIDTH / 160, WIDTH + GAP
    bottom = round(49 * scale)  # inside the lower edge of all boxes, where no text is
    colours = [pair.getpixel((left + round(x * scale), bottom)) for left in (0, right) for x in (30, 125)]
    assert colours == [(255, 0, 0), (0, 255, 0), (0, 255, 0), (0, 0, 255)]
    assert pair.getpixel((0, HEIGHT - 1)) == (255, 255, 255), 'reduced or enlarged in one direction only'


def test_pictures_are_tiled_in_their_order(tmp_path: Path):
    colours = ['red', 'lime', 'blue', 'black']
    tile([Image.new('RGB', (100, 40), colour) for colour in colours], tmp_path / 'sheet.png')
    with Image.open(tmp_path / 'sheet.png') as sheet:
        assert sheet.size == (2 * 100 + GAP_BETWEEN_PAIRS, 2 * 40 + GAP)
        found = [sheet.getpixel((x, y)) for y in (9, 40 + GAP + 9) for x in (9, 100 + GAP_BETWEEN_PAIRS + 9)]
        assert found == [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)]


@pytest.mark.slow
def test_a_killed_row_goes_on_with_real_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    root = ROOT / 'tools/analysis_tools/reproduce.py'
    command = [sys.executable, str(root), 'cifar10', '--work-dirs', str(tmp_path), '--out', str(tmp_path / 'out')]
    if not os.environ.get('RESIST_MM_CIFAR10'):
        pytest.skip('RESIST_MM_CIFAR10 is not set')
    work_dir = tmp_path / ROWS[0].name
    first = subprocess.Popen(command)
    while not list(work_dir.glob('iter_*.pth')):
        assert first.poll() is None
        time.sleep(1)
    first.send_signal(signal.SIGTERM)
    assert first.wait() == 130
    second = subprocess.Popen(command)
    try:
        while not any('resumed' in log.read_text() for log in work_dir.glob('*/*.log')):
            assert second.poll() is None
            time.sleep(1)
    finally:
        second.terminate()
        second.wait()
