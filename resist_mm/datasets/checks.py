"""Checks that data sets exist before anything is built."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from resist_mm.registry import DATASETS

from .image_set import ImageSet

__all__ = ['check_data_sets']

VOC_VARIABLE = 'RESIST_MM_VOC'


def check_data_sets(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the annotation files and image folders that a config names exist.

    Only paths on a local disk are checked.

    Args:
        cfg (Config): The run's config.
        dataloaders (Sequence[str]): Its dataloaders that the run uses, such as
            'train_dataloader'.

    Raises:
        FileNotFoundError: With the config key, the path, and how to set the location of
            the data set.
    """
    # the text of the config files, before values are put in
    by_variable, by_reference = VOC_VARIABLE in cfg.text, '${data_root}' in cfg.text
    for dataloader in dataloaders:
        for key, dataset in _datasets(cfg.get(dataloader) or {}, dataloader):
            if dataset.get('ann_file'):
                _check_annotation_file(key, dataset, by_variable, by_reference)
            elif str(dataset.get('type')).startswith('resist_mm.'):
                _check_image_set(key, dataset)


def _check_annotation_file(key: str, dataset: Mapping, by_variable: bool, by_reference: bool) -> None:
    root, file = dataset.get('data_root') or '', dataset['ann_file']
    if not isinstance(file, str) or dataset.get('backend_args'):
        return
    path = file if osp.isabs(file) else osp.join(root, file)
    if '://' in path or osp.isfile(path):
        return
    where = 'ann_file' if osp.isabs(file) else 'data_root'
    ways = ["data_root = '...' in your config"] if by_reference else [f'--cfg-options {key}.{where}=...']
    if by_variable:
        ways.insert(0, f'{VOC_VARIABLE}=/path/to/VOCdevkit/ in the environment')
    raise FileNotFoundError(
        f'{key}.ann_file: there is no file {osp.abspath(path)!r}; data_root is {root!r}. Put the data set, or a '
        f'link to it, there; or set its location: {", or ".join(ways)}'
    )


def _check_image_set(key: str, dataset: Mapping) -> None:
    image_set = DATASETS.get(dataset['type'])
    if isinstance(image_set, type) and issubclass(image_set, ImageSet):
        try:
            image_set.check_place(**{name: value for name, value in dataset.items() if name != 'type'})
        except FileNotFoundError as error:
            raise FileNotFoundError(f'{key}: {error}') from None


def _datasets(node: Any, key: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Mapping):
        if node.get('ann_file') or node.get('data_root'):
            yield key, node
        for name, child in node.items():
            if name != 'pipeline':
                yield from _datasets(child, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _datasets(child, f'{key}.{i}')
