"""Tiny generated data in the layouts of the real sets."""

from __future__ import annotations

import os
import pickle
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from PIL import Image

from resist_mm.datasets import ImageNetV2

NUM_IN_BATCH = 4


def make_cifar10(root: Path) -> Path:
    """``cifar-10-batches-py``: 20 training and 4 test images. Use with :func:`without_checksums`."""
    folder = root / 'cifar-10-batches-py'
    folder.mkdir(parents=True)
    for i, name in enumerate([*(f'data_batch_{n}' for n in range(1, 6)), 'test_batch']):
        _dump(folder / name, dict(data=_pixels(i), labels=[0, 3, 5, 9]))
    _dump(folder / 'batches.meta', dict(label_names=[f'class {n}' for n in range(10)]))
    return root


def make_cifar100(root: Path) -> Path:
    """``cifar-100-python``: 4 training and 4 test images. Use with :func:`without_checksums`."""
    folder = root / 'cifar-100-python'
    folder.mkdir(parents=True)
    for i, name in enumerate(('train', 'test')):
        _dump(folder / name, dict(data=_pixels(i), fine_labels=[0, 30, 50, 99]))
    _dump(folder / 'meta', dict(fine_label_names=[f'class {n}' for n in range(100)]))
    return root


def without_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torchvision accept generated CIFAR sets."""
    for cls in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        for name in ('train_list', 'test_list'):
            monkeypatch.setattr(cls, name, [[file, None] for file, _ in getattr(cls, name)])
        monkeypatch.setattr(cls, 'meta', {**cls.meta, 'md5': None})


def make_imagenet(root: Path) -> Path:
    """``train`` and ``val`` with one image, the same, in each of 1,000 class folders."""
    for split in ('train', 'val'):
        _link_image(root, [root / split / f'n{number:08}' for number in range(1000)], 'image.JPEG')
    return root


def make_imagenetv2(root: Path) -> Path:
    """The three sets with one image, the same, in each of 1,000 class folders."""
    for archive in ImageNetV2.VARIANTS.values():
        _link_image(root, [root / f'{archive}-format-val' / str(number) for number in range(1000)], 'image.jpeg')
    return root


def make_image_folders(root: Path, splits: tuple[str, ...], classes: tuple[str, ...], per_class: int = 3) -> Path:
    """JPEG images of 32x32 pixels; every image has its own grey level."""
    for split in splits:
        for c, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(per_class):
                Image.new('RGB', (32, 32), (20 * c + i,) * 3).save(folder / f'{i:04}.jpg', quality=100)
    return root


def make_voc(root: Path) -> Path:
    """``VOC2007`` and ``VOC2012``, four images each in trainval and test."""
    for year in ('VOC2007', 'VOC2012'):
        for name in ('JPEGImages', 'Annotations', 'ImageSets/Main'):
            (root / year / name).mkdir(parents=True)
        for split in ('trainval', 'test'):
            ids = [f'{split}{i}' for i in range(4)]
            (root / year / 'ImageSets/Main' / f'{split}.txt').write_text('\n'.join(ids))
            for i, image_id in enumerate(ids):
                pixels = np.random.default_rng(i).integers(256, size=(60, 80, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / year / 'JPEGImages' / f'{image_id}.jpg')
                _annotation(image_id).write(root / year / 'Annotations' / f'{image_id}.xml')
    return root


def _annotation(image_id: str) -> ET.ElementTree:
    root = ET.Element('annotation')
    ET.SubElement(root, 'filename').text = f'{image_id}.jpg'
    size = ET.SubElement(root, 'size')
    for tag, value in (('width', 80), ('height', 60), ('depth', 3)):
        ET.SubElement(size, tag).text = str(value)
    for name, box in (('dog', (5, 5, 45, 50)), ('person', (35, 2, 78, 55))):
        obj = ET.SubElement(root, 'object')
        ET.SubElement(obj, 'name').text = name
        ET.SubElement(obj, 'difficult').text = '0'
        bndbox = ET.SubElement(obj, 'bndbox')
        for tag, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True):
            ET.SubElement(bndbox, tag).text = str(value)
    return ET.ElementTree(root)


def _pixels(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(NUM_IN_BATCH, 3072), dtype=np.uint8)


def _dump(path: Path, content: dict) -> None:
    path.write_bytes(pickle.dumps(content))


def _link_image(root: Path, folders: list[Path], name: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    image = root / 'image.jpg'
    pixels = np.random.default_rng(0).integers(256, size=(40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    for folder in folders:
        folder.mkdir(parents=True)
        try:
            os.link(image, folder / name)
        except OSError:  # a file system without hard links, or with too many of them
            shutil.copy(image, folder / name)
