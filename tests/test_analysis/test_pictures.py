"""Pictures of runs whose logs were written by hand, and of the method."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from resist_mm.analysis.pictures import method, run
from resist_mm.analysis.pictures.block_map import ALL, cells_of
from resist_mm.analysis.pictures.style import readme_style, save, worker_colour
from resist_mm.analysis.runs import read_run
from resist_mm.partition import PartitionSampler

ROOT = Path(__file__).parents[2]
ITERS = 20  # of a round, and of an epoch of five rounds: 100


def write_log(
    folder: Path,
    name: str,
    rounds: range,
    blocks: int = 6,
    workers: int = 4,
    warmup: int = 0,
    in_rounds: bool = True,
) -> None:
    """What a training of ``rounds`` leaves behind, with mmengine's words; validated every five rounds."""
    logs = folder / name
    (logs / 'vis_data').mkdir(parents=True)
    (folder / 'small.py').write_text('train_cfg = dict(max_epochs=4)\n')
    sampler = PartitionSampler(blocks, workers, 2) if blocks else None
    lines, scalars, records = [f'    GPU number: {workers}'], [], []
    if sampler:
        lines.append(
            f'ResIST: {workers} workers train sub-ResNets with [2, 2, 2, 2] of {blocks} partitioned blocks'
        )
    if rounds.start:
        lines.append(f'resumed epoch: {rounds.start // 5}, iter: {rounds.start * ITERS}')
    for index in rounds:
        iteration, whole = (index + 1) * ITERS, index % 5 == 4
        losses = dict(loss=9 / (1 + index), loss_cls=5 / (1 + index), loss_bbox=4 / (1 + index))
        scalars.append(dict(lr=0.1, time=0.5, iter=iteration, step=iteration, **losses))
        lines.append(f'Epoch(train)  [{index // 5 + 1}][{iteration % 100 or 100:3}/100]  lr: 0.1  loss: 1.0')
        if in_rounds:
            depth = f'depth 2 of {blocks} blocks, ' if blocks else ''
            lines.append(
                f'Round {index}: {depth}{ITERS} iterations in 9.00 s, exchange in 1.00 s; sent 1.00 MB, '
                f'received 1.00 MB, all workers {8.5 if whole else 4.25} MB'
            )
            of_workers = [sampler.sample(index).blocks(w) for w in range(workers)] if sampler else []
            held = of_workers if index >= warmup and blocks else 'all'
            records.append(dict(round=index, iters=ITERS, blocks=blocks, held=held, left_out=[], whole=whole))
        if whole:
            epoch = index // 5 + 1
            scalars.append(
                {'bbox/mAP': 0.1 * epoch, 'bbox/loss': 2.0, 'data_time': 0.1, 'time': 0.1, 'step': epoch}
            )
            lines.append(f'Epoch(val) [{epoch}][7/7]    bbox/mAP: 0.1')
    (logs / f'{name}.log').write_text('\n'.join(lines))
    (logs / 'vis_data/scalars.json').write_text('\n'.join(map(json.dumps, scalars)))
    (logs / 'rounds.jsonl').write_text(
        '\n'.join(map(json.dumps, records)) + '\n{"round":'
    )  # killed while it wrote


@pytest.fixture(scope='module')
def resumed(tmp_path_factory) -> Path:
    """A run that was killed after round 12 and went on from the checkpoint after round 9."""
    folder = tmp_path_factory.mktemp('resumed')
    write_log(folder, '20260101_000000', range(13), warmup=2)
    write_log(folder, '20260102_000000', range(10, 20))
    return folder


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.findobj(Text)]


def labels(svg: Path) -> list[str]:
    return re.findall(r'<text[^>]*>([^<]*)</text>', svg.read_text())


def test_a_resumed_run_is_read_as_one(resumed: Path):
    read = read_run(resumed)
    assert read.resumed_at == [200]
    assert list(read.rounds) == list(read.held) == list(range(20))
    assert list(read.losses) == list(range(20, 401, 20))
    assert read.validated_at == {1: 100, 2: 200, 3: 300, 4: 400}


def test_what_an_earlier_training_did_in_the_same_work_dir_is_forgotten(tmp_path: Path):
    write_log(tmp_path, '20260101_000000', range(20))
    write_log(tmp_path, '20260102_000000', range(6))
    read = read_run(tmp_path)
    assert (list(read.rounds), max(read.losses), read.validated_at) == (list(range(6)), 120, {1: 100})


def test_the_map_shows_the_assignments(resumed: Path):
    """Reads the colours of the finished picture, pixel by pixel."""
    held = read_run(resumed).held
    with readme_style():
        figure = run.draw_run(read_run(resumed))
        figure.canvas.draw()
    axes = next(axes for axes in figure.axes if axes.get_title('left') == 'who held which partitioned block')
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    sampler = PartitionSampler(6, 4, 2)
    for index in range(20):
        for block in range(6):
            holders = sampler.sample(index).holders(block)
            expected = [ALL] if index < 2 else [worker_colour(worker) for worker in holders]
            for place, colour in enumerate(expected):
                at = index - 0.5 + (place + 0.5) / len(expected), block + 0.38  # beside the digit
                x, y = axes.transData.transform(at)
                found = pixels[len(pixels) - 1 - int(y), int(x)]
                assert np.abs(found - to_rgb(colour)).max() < 0.02, (index, block, holders)
    assert {cell.worker for cell in cells_of(held)} == {None, 0, 1, 2, 3}


def test_the_pictures_say_what_they_show(resumed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / 'deeper/picture'
    monkeypatch.setattr(sys, 'argv', ['plot_run.py', str(resumed), '--out', str(out)])
    run.main()
    assert out.with_suffix('.png').read_bytes()[:4] == b'\x89PNG'
    written = labels(out.with_suffix('.svg'))
    for text in (
        'small',
        'ResIST: 4 workers, sub-ResNets with 2 of 6 partitioned blocks',
        '20 rounds, 400 iterations; 180 s of compute, 20.0 s of exchange; 102 MB sent',
        *('loss', 'loss_cls', 'loss_bbox', 'validation', 'resumed', 'bbox/mAP, validation', '0.4'),
        *('compute', 'exchange', '4.25', '8.5 whole model', 'all workers'),
    ):
        assert text in written, written
    assert not any('left out' in text for text in written)


@pytest.mark.parametrize('in_rounds', [True, False], ids=['local SGD', 'data-parallel'])
def test_runs_that_deal_no_blocks(in_rounds: bool, tmp_path: Path):
    write_log(tmp_path, '20260101_000000', range(8), blocks=0, in_rounds=in_rounds)
    with readme_style():
        figure = run.draw_run(read_run(tmp_path))
    titles = {axes.get_title('left') for axes in figure.axes}
    seconds = 'seconds per round, worker 0' if in_rounds else 'seconds per iteration, worker 0'
    assert titles == {'losses; training: worker 0', 'bbox/mAP, validation', seconds} | (
        {'MB sent per round, all workers'} if in_rounds else set()
    )
    assert ('4 workers, rounds on the whole model' if in_rounds else '4 workers, no rounds') in texts(figure)


def test_a_loss_that_is_not_finite_is_left_out(tmp_path: Path):
    write_log(tmp_path, '20260101_000000', range(8))
    scalars = tmp_path / '20260101_000000/vis_data/scalars.json'
    scalars.write_text(re.sub(r'"loss": [\d.]+', '"loss": NaN', scalars.read_text()))
    with readme_style():
        shown = texts(run.draw_run(read_run(tmp_path)))
    assert 'loss' not in shown and 'loss_cls' in shown


def test_errors_say_what_is_missing(resumed: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r'there is no log in .*: give the work dir of a run'):
        read_run(tmp_path)
    logs = tmp_path / '20260101_000000'
    logs.mkdir()
    (logs / '20260101_000000.log').write_text('    GPU number: 1\n')
    with pytest.raises(ValueError, match='no training was logged'):
        run.draw_run(read_run(tmp_path))
    with pytest.raises(ValueError, match='--metric top1: validations logged bbox/mAP'):
        run.draw_run(read_run(resumed), ['top1'])
    with pytest.raises(ValueError, match='--rounds 30 40: the run has the rounds 0 to 19'):
        run.draw_run(read_run(resumed), rounds=(30, 40))


def test_the_readme_shows_what_the_sampler_deals(tmp_path: Path):
    sampler = PartitionSampler(method.BLOCKS, method.WORKERS, min_blocks=0)
    with readme_style():
        svg = save(method.draw_method(sampler.sample(0), sampler.sample(1), 0), tmp_path / 'resist')[1]
    moved = sum(sampler.sample(0).holders(block) != sampler.sample(1).holders(block) for block in range(9))
    assert f'{moved} of 9 blocks' in labels(svg)
    assert labels(svg) == labels(ROOT / 'docs/images/resist.svg'), 'run tools/analysis_tools/draw_resist.py again'
