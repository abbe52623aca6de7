"""Pictures of what a finished detector finds."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...checkpoint import newest_whole
from ..paper.commands import as_options
from .rows import Row
from .running import ROOT

__all__ = ['draw_detections', 'draw_pair', 'tile']

NUM_DRAWN = 8
COLUMNS, WIDTH, HEIGHT, GAP = 2, 320, 240, 6  # of a picture, two of which are a pair
FONT_SIZE = 17  # readable when a sheet is shown 800 pixels wide
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
    """Draw the annotations of a picture, and beside them what was found with a score of at least 0.3.

    Args:
        prediction (Mapping): Of mmdet, as ``tools/test.py --out`` writes it.
        classes (Sequence[str]): Names of the classes.
        palette (Sequence[tuple]): Their colours.

    Returns:
        Image: Both pictures side by side, enlarged or reduced to fit before anything is drawn on them.
    """
    import torch
    from matplotlib import font_manager
    from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image
    from torchvision.utils import draw_bounding_boxes

    with Image.open(prediction['img_path']) as file:
        scale = min(WIDTH / file.width, HEIGHT / file.height)
        picture = pil_to_tensor(
            file.convert('RGB').resize((round(scale * file.width), round(scale * file.height)))
        )
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
        drawn = picture
        if len(boxes):
            drawn = draw_bounding_boxes(
                picture,
                scale * torch.as_tensor(boxes),
                names,
                [tuple(palette[label]) for label in labels],
                width=3,
                font=font_manager.findfont('DejaVu Sans'),
                font_size=FONT_SIZE,
                label_colors=['black' if _is_light(palette[label]) else 'white' for label in labels],
                fill_labels=True,
            )
        canvas.paste(to_pil_image(drawn), (left, 0))
    return canvas


def _is_light(colour: Sequence[int]) -> bool:
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue > 140


def tile(pictures: Sequence[Image.Image], sheet: Path) -> None:
    """Put pictures of equal size side by side on one sheet, in their order.

    Args:
        pictures (Sequence[Image]): At least one.
        sheet (Path): The picture file to write.
    """
    width, height = pictures[0].width + 3 * GAP, pictures[0].height + GAP
    canvas = Image.new('RGB', (COLUMNS * width - 3 * GAP, -(-len(pictures) // COLUMNS) * height - GAP), 'white')
    for number, picture in enumerate(pictures):
        canvas.paste(picture, (number % COLUMNS * width, number // COLUMNS * height))
    canvas.save(sheet, quality=85)
