"""A look at the data before training."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from resist_mm.datasets.annotations import DataError, count_annotations, leaf_data_sets
from resist_mm.registry import HOOKS

__all__ = ['DataCheckHook']

MAX_IMAGES = 20_000  # whose files are looked for; a large set on a network drive takes too long


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Look at the data before training: log what there is, and refuse what cannot be trained on.

    Works on detection data sets of mmdet and on sets of images with a label each. Images are not opened, and only
    worker 0 looks. ``tools/train.py`` adds this hook to every run.

    Raises:
        DataError: Before training, if a set is empty, smaller than a batch, or has no instance; if files of images
            are missing, boxes are empty or outside their image; or if the classes are not those of the model.
    """

    priority = 'VERY_HIGH'  # before any other hook needs a batch

    def before_train(self, runner: Runner) -> None:
        """Check the sets of training and validation."""
        problem: list[Exception | None] = [None]
        if is_main_process():
            try:
                _check_loader(runner, 'train_dataloader', runner.train_dataloader)
                if runner.val_loop is not None:
                    _check_loader(runner, 'val_dataloader', runner.val_dataloader)
            except Exception as error:  # the others are waiting
                problem[0] = error
        broadcast_object_list(problem)
        if problem[0] is not None:
            raise problem[0]


def _check_loader(runner: Runner, key: str, loader: DataLoader) -> None:
    if isinstance(loader.dataset, IterableDataset) or not hasattr(loader.dataset, '__len__'):
        return
    instances = None
    for dataset in leaf_data_sets(loader.dataset):
        try:
            instances = _check_data_set(runner, key, dataset, instances)
        except DataError as error:
            raise DataError(f'{key}: {error}') from None
    if instances == 0 and key == 'train_dataloader':
        raise DataError(f'{key}: no object in any image is of one of the classes of the data set')
    if len(loader) == 0:
        raise DataError(
            f'{key}: the set has {len(loader.dataset)} images, fewer than a batch of {loader.batch_size} for '
            f'each of {runner.world_size} worker(s), and what remains of a pass is dropped: lower {key}.batch_size'
        )
    _check_classes(runner.model, key, loader.dataset)


def _check_data_set(runner: Runner, key: str, dataset: Any, instances: int | None) -> int | None:
    """Returns the number of instances so far; None: there is no set of instances."""
    found = count_annotations(dataset)
    if found is None:
        if hasattr(dataset, '__len__') and len(dataset) == 0:
            raise DataError(f'{type(dataset).__name__} has no image')
        return instances
    for line in found.lines():
        runner.logger.info(f'{key}: {line}')
    missing = [path for path in _paths(dataset) if '://' not in path and not osp.isfile(path)]
    if missing:
        raise DataError(
            f'{len(missing)} of the images of {dataset.ann_file} do not exist, the first is {missing[0]}'
        )
    return (instances or 0) + found.instances


def _paths(dataset: Any) -> list[str]:
    if getattr(dataset, 'backend_args', None):
        return []
    infos = (dataset.get_data_info(index) for index in range(min(len(dataset), MAX_IMAGES)))
    return [path for info in infos for path in [info.get('img_path')] if isinstance(path, str)]


def _check_classes(model: nn.Module, key: str, dataset: Any) -> None:
    classes = getattr(dataset, 'metainfo', {}).get('classes')
    if not classes or hasattr(model, 'language_model'):  # with one, classes are found by their names
        return
    for name, module in model.named_modules():
        # a region proposal head tells objects from background, whatever the classes
        if not name.endswith('head') or name.endswith(('rpn_head', 'semantic_head')):
            continue
        expected = getattr(module, 'num_classes', getattr(module, 'out_features', None))
        if isinstance(expected, int) and expected != len(classes):
            raise DataError(
                f'{key}: the data set has {len(classes)} classes ({", ".join(classes[:3])}, ...), but '
                f'model.{name.removeprefix("module.")} ({type(module).__name__}) is made for {expected}: set its '
                'num_classes, or metainfo.classes of the data set'
            )
