"""Pictures of what a finished detector finds."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from ...checkpoint import newest_whole
from ..paper.commands import as_options
from .rows import Row
from .running import ROOT

__all__ = ['LEAST_SCORE', 'draw_detections', 'draw_pair', 'tile']

NUM_DRAWN = 8
COLUMNS, WIDTH, HEIGHT = 2, 320, 240  # of a picture, two of which are a pair
GAP, GAP_BETWEEN_PAIRS = 6, 18
FONT_SIZE = 16  # readable when a sheet is shown 800 pixels wide
LEAST_SCORE = 0.3


def draw_detections(row: Row, work_dir: Path, out: Path) -> Path | None:
    """Test the last checkpoint of a row on the first pictures of its test set, and draw what it finds.

    Args:
        row (Row): The row, finished; a detector of VOC's classes.
        work_dir (Path): Its work dir.
        out (Path): Folder of its set of results; gets ``NAME.jpg``.

    Returns:
        Path or None: The file; None if there is no checkpoint any more.

    Raises:
        CalledProcessError: If the test fails.
    """
    from mmdet.datasets import VOCDataset

    sheet = out / f'{row.name}.jpg'
    checkpoint, _ = newest_whole(work_dir)
    if checkpoint is None or sheet.is_file():
        return sheet if sheet.is_file() else None
    found = work_dir / 'test/predictions.pkl'
    command = [sys.executable, 'tools/test.py', f'configs/{row.config}', str(checkpoint.absolute())]
    command += ['--work-dir', str(found.parent.absolute()), '--out', str(found.absolute()), '--cfg-options']
    command += [f'test_dataloader.dataset.indices={NUM_DRAWN}', *as_options(row.options)]
    environment = {**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''}
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    metainfo = VOCDataset.METAINFO
    with found.open('rb') as file:
        predictions = pickle.load(file)  # just written by the command
    tile([draw_pair(one, metainfo['classes'], metainfo['palette']) for one in predictions], sheet)
    return sheet


def draw_pair(prediction: Mapping[str, Any], classes: Sequence[str], palette: Sequence[tuple]) -> Image.Image:
    """Draw the annotations of a picture, and beside them what was found with a score of at least ``LEAST_SCORE``.

    Args:
        prediction (Mapping): Of mmdet, as ``tools/test.py --out`` writes it. Difficult objects are not drawn.
        classes (Sequence[str]): Names of the classes.
        palette (Sequence[tuple]): Their colours.

    Returns:
        Image: Both pictures side by side, enlarged or reduced to fit before anything is drawn on them.
    """
    with Image.open(prediction['img_path']) as file:
        scale = min(WIDTH / file.width, HEIGHT / file.height)
        size = round(scale * file.width), round(scale * file.height)
        picture = file.convert('RGB').resize(size)
    canvas = Image.new('RGB', (2 * WIDTH + GAP, HEIGHT), 'white')
    there, found = prediction['gt_instances'], prediction['pred_instances']
    scores = found['scores']
    kept = [i for i in scores.argsort().tolist() if scores[i] >= LEAST_SCORE]  # the best on top
    texts = [
        f'{classes[label]} {score:.0%}' for label, score in zip(found['labels'][kept], scores[kept], strict=True)
    ]
    for left, boxes, labels, names in (
        (0, there['bboxes'], there['labels'], [classes[label] for label in there['labels']]),
        (WIDTH + GAP, found['bboxes'][kept], found['labels'][kept], texts),
    ):
        drawn = picture.copy()
        _draw_boxes(drawn, (scale * boxes).round().int().tolist(), names, [palette[label] for label in labels])
        canvas.paste(drawn, (left, 0))
    return canvas


def _draw_boxes(
    picture: Image.Image, boxes: Sequence[Sequence[int]], texts: Sequence[str], colours: Sequence
) -> None:
    """Each text is above its box if there is room, else below its upper edge."""
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(FONT_SIZE)
    for box, colour in zip(boxes, colours, strict=True):
        draw.rectangle(tuple(box), outline=tuple(colour), width=3)
    for (left, top, *_), text, colour in zip(boxes, texts, colours, strict=True):
        width, height = draw.textlength(text, font), FONT_SIZE + 2
        left = max(0, min(left, picture.width - round(width) - 2))
        top = top - height if top >= height else max(top, 0)
        draw.rectangle((left, top, left + width + 2, top + height), fill=tuple(colour))
        red, green, blue = colour
        is_light = 0.299 * red + 0.587 * green + 0.114 * blue > 140
        draw.text((left + 2, top), text, 'black' if is_light else 'white', font)


def tile(pictures: Sequence[Image.Image], sheet: Path) -> None:
    """Put pictures of equal size side by side on one sheet, in their order.

    Args:
        pictures (Sequence[Image]): At least one.
        sheet (Path): The picture file to write.
    """
    width, height = pictures[0].width + GAP_BETWEEN_PAIRS, pictures[0].height + GAP
    size = COLUMNS * width - GAP_BETWEEN_PAIRS, -(-len(pictures) // COLUMNS) * height - GAP
    canvas = Image.new('RGB', size, 'white')
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (number % COLUMNS * width, number // COLUMNS * height))
    canvas.save(sheet, quality=85)
