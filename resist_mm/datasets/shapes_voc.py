"""A synthetic detection set in the layout of Pascal VOC: plain shapes on textured backgrounds.

It needs no download, and a small detector learns it from scratch. Image ``i`` of a split depends only on the
seed and ``i``, so a larger set begins with the images of a smaller one.
"""

import json
import shutil
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

__all__ = ['CLASSES', 'METAINFO', 'Shape', 'draw_image', 'make_shapes_voc']

CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')
METAINFO = dict(
    classes=CLASSES,
    palette=[(220, 20, 60), (0, 0, 230), (0, 182, 0), (250, 170, 30), (153, 69, 201)],
)

# not VOC2007 or VOC2012: from these names mmdet's VOCDataset infers the rules of that year
FOLDER = 'Shapes'
PARAMETERS_FILE = 'shapes.json'
SPLITS = ('trainval', 'test')
FORMAT = 1  # increase it when the same parameters give other images

SIZE_RANGE = (0.2, 0.5)  # longer side of an object, as a share of the image's side
MAX_OBJECTS = 4
RARE_SIZE_RANGE = (10.0, 16.0)  # pixels, longer side of an object of the rare class
RARE_SHARE = 0.05  # of the objects drawn; more large ones find no place
MAX_ANGLE = 20.0  # degrees
MIN_VISIBLE = 0.85  # the share of an object that others must leave uncovered
MIN_CONTRAST = 110.0  # distance in RGB between an object and the mean of what lies behind it


@dataclass
class Shape:
    """One object of an image.

    Args:
        name (str): Its class, one of ``CLASSES``.
        mask (np.ndarray): Bool array of shape (H, W), the pixels in which it is visible.
    """

    name: str
    mask: np.ndarray

    @property
    def box(self) -> tuple[int, int, int, int]:
        """First and last visible column and row as (x_min, y_min, x_max, y_max), 0-based and inclusive."""
        columns, rows = (np.flatnonzero(self.mask.any(axis=axis)) for axis in (0, 1))
        return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def make_shapes_voc(
    out_dir: str | Path,
    train: int = 400,
    test: int = 100,
    size: int = 160,
    seed: int = 0,
    rare: str | None = None,
) -> Path:
    """Write the set into ``out_dir/Shapes``, unless it is already there.

    The folder gets its name once it is complete, so an interrupted run leaves nothing that looks like a set.

    Args:
        out_dir (str | Path): The folder that takes the place of VOC's ``VOCdevkit``.
        train (int): Number of images in ``ImageSets/Main/trainval.txt``. Defaults to 400.
        test (int): Number of images in ``ImageSets/Main/test.txt``. Defaults to 100.
        size (int): Height and width of the images in pixels, at least 64. Defaults to 160.
        seed (int): Seed of all images, not negative. Defaults to 0.
        rare (str, optional): A class that is made rare and small: about one object in thirteen, 10 to 16 pixels.
            Defaults to None.

    Returns:
        Path: The folder of the set.

    Raises:
        ValueError: If a parameter is out of range, or the set there was made with others.
        FileExistsError: If the folder exists and is not a set of this kind.
    """
    for key, value, least in (('train', train, 1), ('test', test, 1), ('size', size, 64), ('seed', seed, 0)):
        if value < least:
            raise ValueError(f'{key} must be at least {least}, got {value}')
    if rare is not None and rare not in CLASSES:
        raise ValueError(f'rare must be one of {", ".join(CLASSES)}, got {rare!r}')
    parameters = dict(train=train, test=test, size=size, seed=seed, rare=rare, format=FORMAT)
    folder = Path(out_dir) / FOLDER
    if _is_there(folder, parameters):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix='.shapes-', dir=folder.parent))
    try:
        unnamed = scratch / FOLDER
        _write(unnamed, parameters)
        try:
            unnamed.rename(folder)
        except OSError:
            # another process was faster
            if not _is_there(folder, parameters):
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return folder


def draw_image(rng: np.random.Generator, size: int, rare: str | None = None) -> tuple[np.ndarray, list[Shape]]:
    """Draw one image with one to four shapes.

    Args:
        rng (np.random.Generator): Source of all choices.
        size (int): Height and width in pixels.
        rare (str, optional): The class that is rare and small. Defaults to None.

    Returns:
        tuple[np.ndarray, list[Shape]]: The image, uint8 RGB of shape (size, size, 3), and its shapes. Each is
        inside the image, and visible in at least 85 % of its pixels.
    """
    canvas = _background(rng, size)
    full_masks: list[np.ndarray] = []
    shapes: list[Shape] = []
    wanted = int(rng.integers(1, MAX_OBJECTS + 1))
    for _ in range(20 * wanted):
        name = _random_class(rng, rare)
        mask = _random_mask(rng, name, size, small=name == rare)
        if any((s.mask & ~mask).sum() < MIN_VISIBLE * m.sum() for s, m in zip(shapes, full_masks, strict=True)):
            continue
        for shape in shapes:
            shape.mask &= ~mask
        shapes.append(Shape(name, mask.copy()))
        full_masks.append(mask)
        canvas[mask] = _shape_colours(rng, canvas[mask])
        if len(shapes) == wanted:
            break
    canvas += rng.normal(0.0, 4.0, canvas.shape)
    return canvas.clip(0, 255).round().astype(np.uint8), shapes


def _is_there(folder: Path, parameters: dict[str, Any]) -> bool:
    """Whether the set exists; raises an error if something else does."""
    if not folder.exists():
        return False
    try:
        found = dict(json.loads((folder / PARAMETERS_FILE).read_text()))
    except (OSError, ValueError, TypeError):
        raise FileExistsError(
            f'{folder} has no readable {PARAMETERS_FILE}, so it is not a synthetic set: choose another folder'
        ) from None
    other = [
        f'{key}={found.get(key)}, not {value}' for key, value in parameters.items() if found.get(key) != value
    ]
    if other:
        raise ValueError(
            f'{folder} was made with {"; ".join(other)}: remove it, choose another folder, or use these values'
        )
    return True


def _write(folder: Path, parameters: dict[str, Any]) -> None:
    for name in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
        (folder / name).mkdir(parents=True)
    for index, (split, count) in enumerate(zip(SPLITS, (parameters['train'], parameters['test']), strict=True)):
        ids = [f'{split}_{i:05d}' for i in range(count)]
        for i, image_id in enumerate(ids):
            rng = np.random.default_rng([parameters['seed'], index, i])
            image, shapes = draw_image(rng, parameters['size'], parameters['rare'])
            # no chroma subsampling: it would smear the colours of neighbouring pixels over the edges
            Image.fromarray(image).save(folder / 'JPEGImages' / f'{image_id}.jpg', quality=95, subsampling=0)
            _annotation(image_id, shapes, parameters['size']).write(folder / 'Annotations' / f'{image_id}.xml')
        (folder / 'ImageSets' / 'Main' / f'{split}.txt').write_text('\n'.join(ids) + '\n')
    (folder / PARAMETERS_FILE).write_text(json.dumps(parameters, indent=2) + '\n')


def _annotation(image_id: str, shapes: list[Shape], size: int) -> ET.ElementTree:
    root = ET.Element('annotation')
    ET.SubElement(root, 'folder').text = FOLDER
    ET.SubElement(root, 'filename').text = f'{image_id}.jpg'
    size_element = ET.SubElement(root, 'size')
    for tag, value in (('width', size), ('height', size), ('depth', 3)):
        ET.SubElement(size_element, tag).text = str(value)
    ET.SubElement(root, 'segmented').text = '0'
    for shape in shapes:
        obj = ET.SubElement(root, 'object')
        for tag, text in (('name', shape.name), ('pose', 'Unspecified'), ('truncated', '0'), ('difficult', '0')):
            ET.SubElement(obj, tag).text = text
        box = ET.SubElement(obj, 'bndbox')
        for tag, pixel in zip(('xmin', 'ymin', 'xmax', 'ymax'), shape.box, strict=True):
            ET.SubElement(box, tag).text = str(pixel + 1)  # VOC counts pixels from 1
    ET.indent(root)
    return ET.ElementTree(root)


def _background(rng: np.random.Generator, size: int) -> np.ndarray:
    """A float RGB image: a gradient, clouds or stripes between two muted colours."""
    first, second = (_muted_colour(rng) for _ in range(2))
    kind = rng.integers(3)
    if kind == 0:
        weight = _ramp(rng, size)
    elif kind == 1:
        weight = _clouds(rng, size)
    else:
        weight = 0.5 + 0.5 * np.sin(2 * np.pi * rng.uniform(3, 9) * _ramp(rng, size))
    return first + weight[..., None] * (second - first)


def _muted_colour(rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(50, 205) + rng.uniform(-25, 25, 3)


def _ramp(rng: np.random.Generator, size: int) -> np.ndarray:
    """0 to 1 over the image, in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[:size, :size]
    ramp = np.cos(angle) * x + np.sin(angle) * y
    return (ramp - ramp.min()) / (ramp.max() - ramp.min())


def _clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Random values on a coarse grid, interpolated between its points."""
    cells = int(rng.integers(4, 12))
    grid = rng.uniform(0, 1, (cells + 1, cells + 1))
    position = np.arange(size) * cells / size
    low = position.astype(int)
    share = position - low
    rows = grid[low] * (1 - share[:, None]) + grid[low + 1] * share[:, None]
    return rows[:, low] * (1 - share) + rows[:, low + 1] * share


def _shape_colours(rng: np.random.Generator, behind: np.ndarray) -> np.ndarray:
    """Colours of an object's pixels: one colour that stands out, a little lighter or darker across."""
    mean = behind.mean(axis=0)
    for _ in range(50):
        colour = rng.permutation([rng.uniform(0, 70), rng.uniform(0, 255), rng.uniform(185, 255)])
        if np.linalg.norm(colour - mean) >= MIN_CONTRAST:
            break
    return colour * np.linspace(rng.uniform(0.85, 1), rng.uniform(0.85, 1), len(behind))[:, None]


def _random_class(rng: np.random.Generator, rare: str | None) -> str:
    if rare is None:
        return CLASSES[rng.integers(len(CLASSES))]
    if rng.random() < RARE_SHARE:
        return rare
    others = [name for name in CLASSES if name != rare]
    return others[rng.integers(len(others))]


def _random_mask(rng: np.random.Generator, name: str, size: int, small: bool) -> np.ndarray:
    """A shape of random extent, angle and place as a bool array (size, size)."""
    extent = rng.uniform(*RARE_SIZE_RANGE) if small else rng.uniform(*SIZE_RANGE) * size
    angle = np.deg2rad(rng.uniform(-MAX_ANGLE, MAX_ANGLE))
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array(list(_corners(name))) @ rotation.T
    corners -= corners.min(axis=0)
    corners *= extent / corners.max()
    corners += rng.uniform(0, size - 1 - corners.max(axis=0))
    return _fill(corners, size)


def _corners(name: str) -> Iterator[tuple[float, float]]:
    """The outline of an upright shape, with y pointing downwards."""
    if name == 'cross':
        arm = 1 / 3
        yield from [(-arm, -1), (arm, -1), (arm, -arm), (1, -arm), (1, arm), (arm, arm)]
        yield from [(arm, 1), (-arm, 1), (-arm, arm), (-1, arm), (-1, -arm), (-arm, -arm)]
        return
    count, inner, start = {
        'circle': (64, 1.0, 0.0),
        'square': (4, 1.0, np.pi / 4),
        'triangle': (3, 1.0, -np.pi / 2),
        'star': (10, 0.42, -np.pi / 2),
    }[name]
    for i in range(count):
        radius = inner if i % 2 and inner < 1 else 1.0
        angle = start + 2 * np.pi * i / count
        yield radius * np.cos(angle), radius * np.sin(angle)


def _fill(corners: np.ndarray, size: int) -> np.ndarray:
    """The pixels whose centre lies within a polygon, by the even-odd rule."""
    y, x = np.mgrid[:size, :size]
    inside = np.zeros((size, size), dtype=bool)
    for (x1, y1), (x2, y2) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        if y1 == y2:
            continue
        crosses = (y1 > y) != (y2 > y)
        inside ^= crosses & (x < x1 + (y - y1) * (x2 - x1) / (y2 - y1))
    return inside
