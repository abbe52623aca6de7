"""Images with one label each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmengine.logging import print_log
from PIL import Image
from torch.utils.data import Dataset

from .collate import Batch
from .transforms import build_pipeline

__all__ = ['ImageSet']


class ImageSet(Dataset):
    """Images with labels; the base of the registered sets.

    A sample is ``dict(inputs=image, labels=index of the class)``. Single images pass
    through ``pipeline``. With ``in_memory=True`` all images are kept in memory as one
    uint8 tensor. Without a pipeline, whole batches are then taken from it at once, to
    be cropped, flipped and normalised on the device by ``resist_mm.BatchPreprocessor``,
    which takes the same pipelines. The dataloader then needs
    ``collate_fn=dict(type='resist_mm.collate')`` and no worker processes.

    Args:
        images (Sequence[str] or np.ndarray): Paths, or a uint8 array of shape
            (N, H, W, 3).
        labels (Sequence[int]): Their classes, from 0.
        classes (Sequence[str]): Names of the classes.
        pipeline (Sequence[dict]): Transforms of ``torchvision.transforms.v2`` for
            single images: PIL images, or uint8 tensors of shape (3, H, W) with
            ``in_memory``. Defaults to ().
        in_memory (bool): Whether to keep all images in memory; they must then have
            the same size. Defaults to False.
        max_images (int, optional): Number of images to use, spread evenly over the
            set; all if there are fewer, which is logged. Defaults to None: all.

    Raises:
        ValueError: If ``max_images`` is less than 1, images in memory differ in size,
            or the pipeline is not valid.
    """

    image_size: tuple[int, int] | None = None
    """Width and height of all images of the set; None: they differ."""

    def __init__(
        self,
        images: Sequence[str] | np.ndarray,
        labels: Sequence[int],
        classes: Sequence[str],
        pipeline: Sequence[Mapping[str, Any]] = (),
        in_memory: bool = False,
        max_images: int | None = None,
    ) -> None:
        self.metainfo = dict(classes=tuple(classes), dataset_type=type(self).__name__)
        self.labels = torch.as_tensor(labels)
        # an array of bytes: loader processes share it, unlike a list of strings
        self.images = (
            images if isinstance(images, np.ndarray) else np.array([os.fsencode(path) for path in images])
        )
        if max_images is not None:
            self._thin_out(max_images)
        self.pipeline = build_pipeline(pipeline)
        self.memory = torch.from_numpy(self._load_all()).permute(0, 3, 1, 2).contiguous() if in_memory else None

    @classmethod
    def check_place(cls, *args: Any, **kwargs: Any) -> None:
        """Raise FileNotFoundError if a set with these arguments does not exist."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """One image, passed through the pipeline, and the index of its class."""
        image = self._read(index) if self.memory is None else self.memory[index]
        if self.pipeline is not None:
            image = self.pipeline(image)
        return dict(inputs=image, labels=self.labels[index])

    def __getitems__(self, indices: Sequence[int]) -> Batch | list[dict[str, Any]]:
        """A batch, in one step if that is possible."""
        if self.memory is None or self.pipeline is not None:
            return [self[index] for index in indices]
        places = torch.as_tensor(indices)
        return Batch(inputs=self.memory[places], labels=self.labels[places])

    def _thin_out(self, max_images: int) -> None:
        name = f'{type(self).__name__}.max_images'
        if max_images < 1:
            raise ValueError(f'{name} must be at least 1, got {max_images}')
        if max_images > len(self):
            print_log(f'{name} is {max_images}, but there are {len(self)} images: all are used', 'current')
            return
        chosen = np.arange(max_images) * len(self) // max_images
        self.labels = self.labels[torch.from_numpy(chosen)]
        self.images = self.images[chosen]

    def _read(self, index: int) -> Image.Image:
        if self.images.dtype == np.uint8:
            return Image.fromarray(self.images[index])
        path = self.path(index)
        try:
            with Image.open(path) as image:
                return image.convert('RGB')
        except OSError as error:
            raise RuntimeError(
                f'{type(self).__name__}: the image {path!r} cannot be read ({error}). The data set is '
                'damaged: get it again, or replace this file'
            ) from None

    def path(self, index: int) -> str:
        """The file of an image, for a set that is read from files."""
        return os.fsdecode(bytes(self.images[index]))

    def _load_all(self) -> np.ndarray:
        if self.images.dtype == np.uint8:
            return self.images
        first = np.asarray(self._read(0))
        array = np.empty((len(self), *first.shape), dtype=np.uint8)
        for i in range(len(self)):
            image = np.asarray(self._read(i))
            if image.shape != first.shape:
                raise ValueError(
                    f'{type(self).__name__}: in_memory=True needs images of equal size, but {self.path(i)!r} has '
                    f'{image.shape[:2]} and {self.path(0)!r} has {first.shape[:2]} pixels. Remove in_memory '
                    'and resize in the pipeline'
                )
            array[i] = image
        return array
