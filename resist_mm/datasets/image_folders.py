"""Sets of images with one folder for each class: any such set, ImageNet, ImageNetV2."""

from __future__ import annotations

import os
import os.path as osp
from collections.abc import Callable
from typing import Any

import torch
import torchvision.datasets
from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

from resist_mm.registry import DATASETS

from .image_set import ImageSet

__all__ = ['ImageFolder', 'ImageNet', 'ImageNetV2', 'folder_samples']

NUM_IMAGENET_CLASSES = 1000


def folder_samples(
    folder: str, name: str, how_to_get: str = '', key: Callable[[str], Any] | None = None
) -> tuple[list[str], list[int], list[str]]:
    """List the images of a folder of class folders.

    Args:
        folder (str): Holds one folder for each class.
        name (str): Name of the data set, for messages.
        how_to_get (str): How to get the set, for messages.
        key (Callable, optional): Sort key of the class names. Defaults to None: they
            are sorted as strings, as in torchvision.

    Returns:
        tuple: Paths, the index of each image's class, and the names of all classes.

    Raises:
        FileNotFoundError: If the folder or the images of a class are missing.
    """
    place = osp.abspath(folder)
    _check_folder(folder, name, how_to_get)
    classes = sorted((entry.name for entry in os.scandir(folder) if entry.is_dir()), key=key)
    if not classes:
        raise FileNotFoundError(f'{name}: the folder {place!r} has no class folders. {how_to_get}')
    paths, labels = [], []
    for number, class_name in enumerate(classes):
        found = sorted(
            osp.join(parent, file)
            for parent, _, files in os.walk(osp.join(folder, class_name), followlinks=True)
            for file in files
            if has_file_allowed_extension(file, IMG_EXTENSIONS)
        )
        if not found:
            raise FileNotFoundError(
                f'{name}: the class folder {osp.join(place, class_name)!r} has no images: the set is damaged. '
                f'{how_to_get}'
            )
        paths += found
        labels += [number] * len(found)
    return paths, labels, classes


def _check_folder(folder: str, name: str, how_to_get: str) -> None:
    if not osp.isdir(folder):
        raise FileNotFoundError(f'{name}: there is no folder {osp.abspath(folder)!r}. {how_to_get}')


@DATASETS.register_module()
class ImageFolder(ImageSet):
    """Any set in the layout of ``torchvision.datasets.ImageFolder``.

    ``data_root/split/CLASS/*.jpg``; classes are numbered in the order of their names.

    Args:
        data_root (str): Folder of the set.
        split (str): Folder in it, such as 'train'. Defaults to '': ``data_root``
            itself.
        **kwargs: ``pipeline``, ``in_memory`` and ``max_images`` of
            :class:`ImageSet`.

    Raises:
        FileNotFoundError: If the folder or the images of a class are missing.
    """

    def __init__(self, data_root: str, split: str = '', **kwargs: Any) -> None:
        super().__init__(*folder_samples(*self._place(data_root, split)), **kwargs)

    @classmethod
    def check_place(cls, data_root: str, split: str = '', **kwargs: Any) -> None:
        """Raise FileNotFoundError if there is no such folder."""
        _check_folder(*cls._place(data_root, split))

    @classmethod
    def _place(cls, data_root: str, split: str) -> tuple[str, str, str]:
        hint = f'data_root is {data_root!r}, split is {split!r}; it must hold one folder of images for each class'
        return osp.join(data_root, split), cls.__name__, hint


@DATASETS.register_module()
class ImageNet(ImageSet):
    """ImageNet (ILSVRC2012): 1,000 classes, ``data_root/{train,val}/n01440764/*.JPEG``.

    This is the layout to which ``torchvision.datasets.ImageNet`` unpacks the official
    archives. With its ``meta.bin`` the metainfo has the names of the classes, without
    it their WordNet ids.

    Args:
        data_root (str): Folder of the set.
        split (str): 'train' or 'val'. Defaults to 'train'.
        **kwargs: ``pipeline``, ``in_memory`` and ``max_images`` of
            :class:`ImageSet`.

    Raises:
        FileNotFoundError: If the set does not exist.
        RuntimeError: If it does not have 1,000 class folders.
        ValueError: If ``split`` is neither of these.
    """

    def __init__(self, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        if split not in ('train', 'val'):
            raise ValueError(f"ImageNet.split must be 'train' or 'val', got {split!r}")
        folder, name, how = self._place(data_root, split)
        paths, labels, wnids = folder_samples(folder, name, how)
        if len(wnids) != NUM_IMAGENET_CLASSES:
            raise RuntimeError(
                f'ImageNet: {osp.abspath(folder)!r} has {len(wnids)} class folders, not {NUM_IMAGENET_CLASSES}: '
                f'the set is incomplete (for a set with other classes use resist_mm.ImageFolder). {how}'
            )
        meta = osp.join(data_root, torchvision.datasets.imagenet.META_FILE)
        names = torch.load(meta, weights_only=True)[0] if osp.isfile(meta) else {}
        super().__init__(paths, labels, [', '.join(names.get(wnid, [wnid])) for wnid in wnids], **kwargs)

    @classmethod
    def check_place(cls, data_root: str, split: str = 'train', **kwargs: Any) -> None:
        """Raise FileNotFoundError if there is no such folder."""
        _check_folder(*cls._place(data_root, split))

    @staticmethod
    def _place(data_root: str, split: str) -> tuple[str, str, str]:
        how = (
            'Get the archives from https://image-net.org/download (an account is needed), put them into data_root '
            f'and unpack them once: python -c "from torchvision.datasets import ImageNet; ImageNet({data_root!r}, '
            f'split={split!r})"; or set data_root, in the configs RESIST_MM_IMAGENET=/path/ in the environment'
        )
        return osp.join(data_root, split), 'ImageNet', how


@DATASETS.register_module()
class ImageNetV2(ImageSet):
    """The three test sets of ImageNetV2, of 10,000 images each.

    Recht et al., "Do ImageNet Classifiers Generalize to ImageNet?", ICML 2019.
    Folders are named by the index of the class, '0' to '999'. That index is used, not
    the position in string order, in which '10' comes before '2'.

    Args:
        data_root (str): Folder of the sets, each in the folder that its archive has.
        variant (str): 'matched-frequency', 'threshold-0.7' or 'top-images'.
        **kwargs: ``pipeline``, ``in_memory`` and ``max_images`` of
            :class:`ImageSet`.

    Raises:
        FileNotFoundError: If the set does not exist.
        RuntimeError: If folders are not named 0 to 999.
        ValueError: If there is no such variant.
    """

    VARIANTS = {
        'matched-frequency': 'imagenetv2-matched-frequency',
        'threshold-0.7': 'imagenetv2-threshold0.7',
        'top-images': 'imagenetv2-top-images',
    }

    def __init__(self, data_root: str, variant: str, **kwargs: Any) -> None:
        folder, name, how = self._place(data_root, variant)
        paths, labels, folders = folder_samples(folder, name, how, key=lambda number: (len(number), number))
        if folders != [str(number) for number in range(NUM_IMAGENET_CLASSES)]:
            raise RuntimeError(
                f'ImageNetV2: the class folders of {osp.abspath(folder)!r} must be named 0 to '
                f'{NUM_IMAGENET_CLASSES - 1}, found {len(folders)} from {folders[0]!r} to {folders[-1]!r}: the '
                f'set is damaged. {how}'
            )
        super().__init__(paths, labels, folders, **kwargs)

    @classmethod
    def check_place(cls, data_root: str, variant: str, **kwargs: Any) -> None:
        """Raise FileNotFoundError if there is no such folder."""
        _check_folder(*cls._place(data_root, variant))

    @classmethod
    def _place(cls, data_root: str, variant: str) -> tuple[str, str, str]:
        if variant not in cls.VARIANTS:
            raise ValueError(f'ImageNetV2.variant must be one of {list(cls.VARIANTS)}, got {variant!r}')
        archive = cls.VARIANTS[variant]
        how = (
            'Unpack https://huggingface.co/datasets/vaishaal/ImageNetV2/resolve/main/'
            f'{archive}.tar.gz in data_root, which is {data_root!r} (in the configs: '
            'RESIST_MM_IMAGENETV2=/path/ in the environment)'
        )
        return osp.join(data_root, f'{archive}-format-val'), 'ImageNetV2', how
