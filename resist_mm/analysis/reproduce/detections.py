"""Pictures of what a finished detector finds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from PIL import Image

from ...checkpoint import newest_whole
from .rows import Row
from .running import ROOT

__all__ = ['draw_detections', 'tile']

NUM_TESTED = 12
COLUMNS, WIDTH, HEIGHT = 3, 480, 180  # of a cell: what is there, and beside it what was found


def draw_detections(row: Row, work_dir: Path, out: Path) -> Path | None:
    """Test the last checkpoint of a row on the first pictures of its test set, and draw what it finds.

    Args:
        row (Row): The row, finished.
        work_dir (Path): Its work dir.
        out (Path): Folder of its set of results; gets ``NAME.jpg``.

    Returns:
        Path or None: The file; None if there is no checkpoint any more.

    Raises:
        CalledProcessError: If the test fails.
    """
    sheet = out / f'{row.name}.jpg'
    checkpoint, _ = newest_whole(work_dir)
    if checkpoint is None or sheet.is_file():
        return sheet if sheet.is_file() else None
    pictures = work_dir / 'test/pictures'
    shutil.rmtree(pictures, ignore_errors=True)
    command = [sys.executable, 'tools/test.py', f'configs/{row.config}', str(checkpoint.absolute())]
    command += ['--work-dir', str((work_dir / 'test').absolute()), '--show-dir', str(pictures.absolute())]
    command += ['--cfg-options', f'test_dataloader.dataset.indices={NUM_TESTED}']
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    tile(sorted(path for path in pictures.iterdir() if path.is_file()), sheet)
    return sheet


def tile(pictures: list[Path], sheet: Path) -> None:
    """Put pictures side by side on one sheet, in their order.

    Args:
        pictures (list[Path]): Of any size.
        sheet (Path): The picture file to write.
    """
    rows = -(-len(pictures) // COLUMNS)
    canvas = Image.new('RGB', (COLUMNS * WIDTH, rows * HEIGHT), 'white')
    for number, path in enumerate(pictures):
        with Image.open(path) as picture:
            small = picture.convert('RGB')
            small.thumbnail((WIDTH, HEIGHT))
        canvas.paste(small, (number % COLUMNS * WIDTH, number // COLUMNS * HEIGHT))
    canvas.save(sheet, quality=85)
