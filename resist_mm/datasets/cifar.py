"""CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import os.path as osp
from typing import Any

import torchvision.datasets
from mmengine.dist import barrier, is_main_process
from torchvision.datasets.utils import check_integrity

from resist_mm.registry import DATASETS

from .image_folders import folder_samples
from .image_set import ImageSet

__all__ = ['CIFAR10', 'CIFAR100']

SPLITS = ('train', 'test')


@DATASETS.register_module()
class CIFAR10(ImageSet):
    """CIFAR-10: 50,000 training and 10,000 test images of 32x32 pixels in 10 classes.

    Reads torchvision's layout (``data_root/cifar-10-batches-py/``), or class folders
    of images, ``data_root/train/airplane/*`` and so on. Nothing is downloaded unless
    ``download=True``.

    Args:
        data_root (str): Folder of the set.
        split (str): 'train' or 'test'. Defaults to 'train'.
        download (bool): Whether the first worker downloads a missing set. On several
            machines without a shared disk, download it beforehand. Defaults to False.
        **kwargs: ``pipeline``, ``in_memory`` and ``max_images`` of
            :class:`ImageSet`.

    Raises:
        FileNotFoundError: If the set does not exist.
        RuntimeError: If one of its files is damaged or cannot be downloaded, or if the
            number of class folders is wrong.
        ValueError: If an argument is out of range.

    Example:
        >>> dataset = dict(type='resist_mm.CIFAR10', data_root='data/cifar10', split='train', in_memory=True)
    """

    torchvision_set: type[torchvision.datasets.CIFAR10] = torchvision.datasets.CIFAR10
    num_classes = 10
    image_size = (32, 32)

    def __init__(self, data_root: str, split: str = 'train', download: bool = False, **kwargs: Any) -> None:
        if split not in SPLITS:
            raise ValueError(f'{type(self).__name__}.split must be one of {SPLITS}, got {split!r}')
        folder = osp.join(data_root, split)
        self.check_place(data_root, split, download)
        if osp.isdir(folder):
            paths, labels, classes = folder_samples(folder, type(self).__name__)
            if len(classes) != self.num_classes:
                raise RuntimeError(
                    f'{type(self).__name__}: {osp.abspath(folder)!r} has {len(classes)} class folders, not '
                    f'{self.num_classes}: the set is incomplete or a different one (for a set with other '
                    'classes use resist_mm.ImageFolder)'
                )
            super().__init__(paths, labels, classes, **kwargs)
            return
        if download:
            self._download(data_root)
        self._check_files(data_root, split)
        loaded = self.torchvision_set(data_root, train=split == 'train')
        super().__init__(loaded.data, loaded.targets, loaded.classes, **kwargs)

    def _download(self, data_root: str) -> None:
        try:
            if is_main_process():
                self.torchvision_set(data_root, download=True)
        except OSError as error:
            raise RuntimeError(
                f'{type(self).__name__}: download=True, but {self.torchvision_set.url} cannot be downloaded to '
                f'{osp.abspath(data_root)!r}: {error}'
            ) from error
        finally:
            barrier()

    @classmethod
    def check_place(cls, data_root: str, split: str = 'train', download: bool = False, **kwargs: Any) -> None:
        """Raise FileNotFoundError if the set neither exists nor is to be downloaded."""
        folder = osp.abspath(osp.join(data_root, split))
        if download or osp.isdir(folder):
            return
        for path, _ in cls._files(data_root, split):
            if not osp.isfile(path):
                raise FileNotFoundError(
                    f'{cls.__name__}: there is no file {path!r}, nor a folder {folder!r} of class folders; '
                    f'data_root is {data_root!r}. {cls._how_to_get_it()}'
                )

    def _check_files(self, data_root: str, split: str) -> None:
        for path, md5 in self._files(data_root, split):
            if not check_integrity(path, md5):
                raise RuntimeError(
                    f'{type(self).__name__}: the file {path!r} is damaged (its MD5 is not {md5}). Remove '
                    f'{osp.dirname(path)!r} and get it again. {self._how_to_get_it()}'
                )

    @classmethod
    def _files(cls, data_root: str, split: str) -> list[tuple[str, str | None]]:
        theirs = cls.torchvision_set
        listed = theirs.train_list if split == 'train' else theirs.test_list
        files = [*listed, [theirs.meta['filename'], theirs.meta['md5']]]
        return [(osp.abspath(osp.join(data_root, theirs.base_folder, name)), md5) for name, md5 in files]

    @classmethod
    def _how_to_get_it(cls) -> str:
        return (
            f'Unpack {cls.torchvision_set.url} there, set download=True once, or set data_root to where it is (in '
            f'the configs: RESIST_MM_{cls.__name__}=/path/ in the environment)'
        )


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """CIFAR-100: like :class:`CIFAR10`, with 100 classes, in ``data_root/cifar-100-python/``."""

    torchvision_set = torchvision.datasets.CIFAR100
    num_classes = 100
