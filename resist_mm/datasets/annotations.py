"""What the annotations of a detection data set contain, and what is wrong with them."""

from __future__ import annotations

import json
import os.path as osp
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from mmengine.dataset import BaseDataset

__all__ = ['Annotations', 'DataError', 'count_annotations', 'empty_sets_explained', 'leaf_data_sets']

MAX_XML_FILES = 2000  # read again, evenly spread over the set, to find names of classes that were left out
SHOWN = 10


class DataError(ValueError):
    """A data set cannot be trained on as it is; the message names the file and what would be right."""


@dataclass
class Annotations:
    """Counts of a data set.

    Attributes:
        images: Number of images.
        classes: Names of the classes.
        by_class: Number of instances of each class, in the same order.
        ignored: Instances that are not trained on: difficult ones, or crowds.
        unknown: Names in the files that are not among the classes, with their number; files may be a sample.
        outside: Instances whose box reaches over the edge of its image.
    """

    images: int
    classes: tuple[str, ...]
    by_class: list[int]
    ignored: int = 0
    unknown: Counter = field(default_factory=Counter)
    outside: int = 0

    @property
    def instances(self) -> int:
        """Number of instances to train on."""
        return sum(self.by_class)

    def lines(self) -> Iterator[str]:
        """What to tell the user."""
        counts = sorted(zip(self.by_class, self.classes, strict=True), reverse=True)
        shown = ', '.join(f'{name} {count}' for count, name in counts[:SHOWN] if count)
        more = sum(count > 0 for count, _ in counts[SHOWN:])
        yield (
            f'{self.images} images, {self.instances} instances of {len(self.classes)} classes: {shown}'
            + (f' and {more} more classes' if more else '')
            + (f'; {self.ignored} ignored (difficult or crowd)' if self.ignored else '')
        )
        missing = [name for count, name in counts if not count]
        if missing:
            yield f'no instance of {_listed(missing)}'
        if self.unknown:
            names = _listed([f'{name} ({count})' for name, count in self.unknown.most_common()])
            yield f'ignored, because their class is not among metainfo.classes: {names}'
        if self.outside:
            yield f'{self.outside} boxes reach over the edge of their image'


def leaf_data_sets(dataset: Any) -> Iterator[Any]:
    """The data sets inside wrappers such as ``ConcatDataset``, ``RepeatDataset`` and ``MultiImageMixDataset``."""
    if hasattr(dataset, 'datasets'):
        for inner in dataset.datasets:
            yield from leaf_data_sets(inner)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_data_sets(dataset.dataset)
    else:
        yield dataset


@contextmanager
def empty_sets_explained() -> Iterator[None]:
    """Let a data set that is left without images say so; mmengine's own error is one of numpy's.

    Raises:
        DataError: When a data set without images is built.
    """
    serialize = BaseDataset._serialize_data

    def checked(dataset: Any) -> Any:
        if not dataset.data_list:
            raise DataError(_why_empty(dataset))
        return serialize(dataset)

    with patch.object(BaseDataset, '_serialize_data', checked):
        yield


def _why_empty(dataset: Any) -> str:
    classes = tuple(dataset.metainfo.get('classes') or ())
    unknown = _unknown_in_xml(dataset, classes)
    return (
        f'{dataset.ann_file} has no image'
        + (f' with an object of the classes {_listed(classes)}' if classes and dataset.filter_cfg else '')
        + (f'; its objects are named {_listed(list(unknown))}' if unknown else '')
    )


def count_annotations(dataset: Any) -> Annotations | None:
    """Count images and instances of a data set of mmdet's kind, and check boxes and classes.

    Nothing but annotations is read.

    Args:
        dataset (Any): A ``BaseDetDataset`` such as ``VOCDataset`` or ``CocoDataset``, without a wrapper.

    Returns:
        Annotations: The counts; None if it is no data set of instances.

    Raises:
        DataError: If a class is in no annotation file, or a box lies outside its image or is empty.
    """
    classes = getattr(dataset, 'metainfo', {}).get('classes') or ()
    if isinstance(classes, str):
        raise DataError(
            f'metainfo.classes must be a tuple of names, got the text {classes!r}: write ({classes!r},)'
        )
    classes = tuple(classes)
    if not classes or not hasattr(dataset, 'get_data_info'):
        return None
    if len(dataset) and 'instances' not in dataset.get_data_info(0):
        return None
    _check_coco_classes(dataset, classes)
    found = Annotations(len(dataset), classes, [0] * len(classes), unknown=_unknown_in_xml(dataset, classes))
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        for instance in info['instances']:
            if instance.get('ignore_flag'):
                found.ignored += 1
            else:
                found.by_class[instance['bbox_label']] += 1
                found.outside += _reaches_out(instance, info)
    return found


def _reaches_out(instance: dict, info: dict) -> bool:
    width, height = info.get('width'), info.get('height')
    if len(instance['bbox']) != 4:  # rotated
        return False
    left, top, right, bottom = instance['bbox']
    box = f'{info.get("xml_path") or info.get("img_path")}: the box ({left:g}, {top:g}, {right:g}, {bottom:g})'
    if not (right > left and bottom > top):
        raise DataError(f'{box} is empty; expected left < right and top < bottom')
    if not width or not height:
        return False
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise DataError(f'{box} lies outside its image of {width} x {height} pixels; correct or remove it')
    # annotations count from 0 or 1, and boxes end at the last pixel or behind it
    return left < -1 or top < -1 or right > width + 1 or bottom > height + 1


def _check_coco_classes(dataset: Any, classes: Sequence[str]) -> None:
    found = getattr(dataset, 'cat_ids', None)
    if found is None or getattr(dataset, 'backend_args', None):
        return
    with open(dataset.ann_file) as file:
        names = {category['id']: category['name'] for category in json.load(file).get('categories', [])}
    if len(found) != len(classes):
        # the data set numbers the categories that it finds: all later labels would be wrong
        missing = [name for name in classes if name not in names.values()]
        raise DataError(
            f'{dataset.ann_file} has no category {_listed(missing)}, which metainfo.classes of the data set '
            f'names; its categories are {_listed(list(names.values()))}'
        )
    in_order = tuple(names.get(number) for number in found)
    if in_order != tuple(classes) and set(in_order) == set(classes):
        # it numbers them in the order of the file: the mean AP would be right, the names in tables wrong
        raise DataError(
            f'{dataset.ann_file} has its categories in another order than metainfo.classes of the data set, and '
            f'labels follow the file: set classes = {in_order}'
        )


def _unknown_in_xml(dataset: Any, classes: Sequence[str]) -> Counter:
    """Names of objects in the files of an ``XMLDataset`` that are not among the classes."""
    unknown: Counter = Counter()
    if not hasattr(dataset, 'ann_subdir') or getattr(dataset, 'backend_args', None):
        return unknown
    with open(dataset.ann_file) as file:
        ids = file.read().split('\n')
    ids = [name.strip() for name in ids if name.strip()]
    for name in ids[:: -(-len(ids) // MAX_XML_FILES) or 1]:
        path = osp.join(dataset.sub_data_root, dataset.ann_subdir, f'{name}.xml')
        try:
            unknown.update(obj.findtext('name', '') for obj in ET.parse(path).getroot().iter('object'))
        except ET.ParseError as error:
            raise DataError(f'{path} is no XML file: {error}') from None
    for name in classes:
        unknown.pop(name, None)
    return unknown


def _listed(names: Sequence[str]) -> str:
    return ', '.join(names[:SHOWN]) + (f' and {len(names) - SHOWN} more' if len(names) > SHOWN else '')
