"""Finds a missing data set before anything is built from it."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

__all__ = ['check_annotation_files']


def check_annotation_files(cfg: Config, dataloaders: Sequence[str]) -> None:
    """Check that the annotation files that a config names are there.

    Only files on a local disk are looked at.

    Args:
        cfg (Config): The run's config.
        dataloaders (Sequence[str]): Its dataloaders that the run uses, such as
            'train_dataloader'.

    Raises:
        FileNotFoundError: Naming the config key, the file, and how to say where the
            data set is.
    """
    for dataloader in dataloaders:
        for key, dataset in _datasets(cfg.get(dataloader) or {}, dataloader):
            root, file = dataset.get('data_root') or '', dataset['ann_file']
            if not isinstance(file, str) or dataset.get('backend_args'):
                continue
            path = file if osp.isabs(file) else osp.join(root, file)
            if '://' in path or osp.isfile(path):
                continue
            raise FileNotFoundError(
                f'{key}.ann_file: there is no file {osp.abspath(path)!r}. data_root is {root!r}. Put the data '
                'set, or a link to it, there; or name its folder, as README.md says (for Pascal VOC: '
                'RESIST_MM_VOC=/path/to/VOCdevkit/ in the environment)'
            )


def _datasets(node: Any, key: str) -> Iterator[tuple[str, Mapping]]:
    if isinstance(node, Mapping):
        if node.get('ann_file'):
            yield key, node
        for name, child in node.items():
            if name != 'pipeline':
                yield from _datasets(child, f'{key}.{name}')
    elif isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _datasets(child, f'{key}.{i}')
