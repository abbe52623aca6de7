"""Transforms that act on every image of a batch independently, on the device of the batch.

torchvision's transforms accept a batch too, but crop and flip all of its images alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .transforms import build_transform, transform_arguments

__all__ = ['build_batch_pipeline']

# these do the same to all images anyway
DETERMINISTIC = ('CenterCrop', 'Grayscale', 'Pad', 'RGB', 'Resize', 'ToDtype')


class RandomCrop(nn.Module):
    """Pads with zeros and crops every image at its own random position, as ``v2.RandomCrop`` does a single one.

    Args:
        size (int or Sequence[int]): Height and width of the crop, in pixels.
        padding (int): Zeros on every side. Defaults to 0.
    """

    def __init__(self, size: int | Sequence[int], padding: int = 0) -> None:
        super().__init__()
        sides = (size, size) if isinstance(size, int) else tuple(size)
        if len(sides) != 2 or not isinstance(padding, int):
            raise TypeError('size must be one number, or height and width; padding one number for all sides')
        self.height, self.width = sides
        self.padding = padding

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, height, width), in channels-last strides."""
        images = F.pad(images, [self.padding] * 4)
        count, _, height, width = images.shape
        if height < self.height or width < self.width:
            raise ValueError(
                f'pipeline: RandomCrop.size is {(self.height, self.width)}, but images, padded by '
                f'{self.padding}, have {(height, width)}'
            )
        device = images.device
        top = torch.randint(height - self.height + 1, (count, 1, 1), device=device)
        left = torch.randint(width - self.width + 1, (count, 1, 1), device=device)
        rows = top + torch.arange(self.height, device=device).view(1, -1, 1)
        columns = left + torch.arange(self.width, device=device).view(1, 1, -1)
        image = torch.arange(count, device=device).view(-1, 1, 1)
        return images.permute(0, 2, 3, 1)[image, rows, columns].permute(0, 3, 1, 2)


class RandomHorizontalFlip(nn.Module):
    """Mirrors every image with a probability.

    Args:
        p (float): The probability. Defaults to 0.5.
    """

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        self.p = p

    def forward(self, images: Tensor) -> Tensor:
        """Shape (N, C, H, W) in and out."""
        flipped = torch.rand(len(images), 1, 1, 1, device=images.device) < self.p
        return torch.where(flipped, images.flip(-1), images)


class Normalize(nn.Module):
    """Like ``v2.Normalize``, but without copying mean and deviation to the device for every batch.

    Args:
        mean (Sequence[float]): Of every channel.
        std (Sequence[float]): Of every channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        for name, values in (('mean', mean), ('std', std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Shape (N, C, H, W) in and out, floating point."""
        if not images.is_floating_point():
            raise ValueError(
                f'pipeline: Normalize found {images.dtype} images: put dict(type="ToDtype", dtype="float32", '
                'scale=True) before it'
            )
        return (images - self.mean) / self.std


BATCH_TRANSFORMS = dict(RandomCrop=RandomCrop, RandomHorizontalFlip=RandomHorizontalFlip, Normalize=Normalize)


def build_batch_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> nn.Sequential:
    """Build a pipeline that works on batches of shape (N, C, H, W).

    Args:
        pipeline (Sequence[dict]): The same config as for single images. Random
            transforms draw new numbers for every image.

    Raises:
        ValueError: If a transform would treat all images of a batch alike and is
            random, or an argument is not supported.

    Example:
        >>> crop = build_batch_pipeline([dict(type='RandomCrop', size=32, padding=4)])
        >>> crop(torch.zeros(128, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([128, 3, 32, 32])
    """
    return nn.Sequential(*(_build(cfg) for cfg in pipeline if cfg.get('type') != 'ToImage'))


def _build(cfg: Mapping[str, Any]) -> nn.Module:
    name, arguments = transform_arguments(cfg)
    if name in DETERMINISTIC:
        return build_transform(cfg)
    if name not in BATCH_TRANSFORMS:
        raise ValueError(
            f'pipeline: {name} does not work on whole batches; these do: '
            f'{sorted([*BATCH_TRANSFORMS, *DETERMINISTIC, "ToImage"])}. Put it into the pipeline of the data set, '
            'which works on single images'
        )
    try:
        return BATCH_TRANSFORMS[name](**arguments)
    except TypeError as error:
        raise ValueError(f'pipeline: {name} on whole batches with {arguments}: {error}') from None
