"""The two losses of the YOLOv2 head: the paper's squared errors, and binary cross entropy."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ['LossKind', 'Predictions', 'logit', 'loss_kind', 'objectness_errors', 'rising_weight', 'size_weights']


class Predictions(NamedTuple):
    """A prediction map, decoded. N images, P = H * W * num_priors predictors, fp32 throughout."""

    coords: Tensor  # (N, P, 4): centre in its cell, 0 to 1; logarithm of size over prior
    boxes: Tensor  # (N, P, 4): (x1, y1, x2, y2) in pixels, without gradient
    objectness: Tensor  # (N, P): logits
    classes: Tensor  # (N, P, num_classes): logits
    priors: Tensor  # (P, 4): (x1, y1, x2, y2) in pixels


class LossKind(NamedTuple):
    """In what the losses differ."""

    cross_entropy: bool
    """Whether objectness is learned by binary cross entropy and the size of objects weighs coordinates."""
    coord_scale: float
    """Default weight of ``loss_coord``."""
    object_scale: float
    """Default weight of ``loss_obj``."""
    first_objectness: float
    """Objectness of every predictor before training."""


KINDS = {
    # From a low start, squared error through a sigmoid has hardly any gradient.
    'squared': LossKind(False, coord_scale=1.0, object_scale=5.0, first_objectness=0.5),
    # Nearly all predictors have no object: begin there, or the first images teach nothing else.
    'bce': LossKind(True, coord_scale=0.5, object_scale=1.0, first_objectness=0.01),
}


def loss_kind(name: str) -> LossKind:
    """The loss of this name.

    Raises:
        ValueError: If there is none.
    """
    if not isinstance(name, str) or name not in KINDS:  # mmdet's heads have a dict there
        raise ValueError(f'`loss` of YOLOV2Head must be one of {", ".join(map(repr, KINDS))}, got {name!r}.')
    return KINDS[name]


def objectness_errors(kind: LossKind, logits: Tensor, iou: Tensor) -> tuple[Tensor, Tensor]:
    """Errors of the objectness of predictors with and without an object.

    A squared error has no gradient where the sigmoid is near zero, so predictors that rarely see an object get
    there and stay there. The gradient of cross entropy is the distance from the target, everywhere.

    Args:
        kind (LossKind): Kind of loss.
        logits (Tensor): Objectness, of any shape.
        iou (Tensor): Of the same shape: IoU of a predictor's box with its object, the target of the squared error.
            The target of cross entropy is 1, as in YOLOv3: boxes of small objects overlap less, but are there.

    Returns:
        tuple[Tensor, Tensor]: Of the same shape, not masked.
    """
    if kind.cross_entropy:
        return F.softplus(-logits), F.softplus(logits)
    objectness = logits.sigmoid()
    return (objectness - iou).square(), objectness.square()


def size_weights(boxes: Tensor, width: float, height: float) -> Tensor:
    """Darknet's weight of coordinates, ``2 - w h`` with w and h as shares of the image.

    Args:
        boxes (Tensor): (..., 4) in pixels.
        width (float): Of the image, in pixels.
        height (float): Of the image, in pixels.

    Returns:
        Tensor: (...), from 2 for a box without area to 1 for one as large as the image.
    """
    share = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).prod(dim=-1) / (width * height)
    return 2 - share.clamp(max=1)


def rising_weight(images_seen: Tensor, images: int) -> Tensor:
    """A weight that rises from 0.1 to 1 over the first images; a tensor: no synchronisation with the device."""
    return (0.1 + 0.9 * images_seen / max(images, 1)).clamp(max=1) if images else torch.ones_like(images_seen)


def logit(probability: float) -> float:
    """The argument at which a sigmoid has this value."""
    return math.log(probability / (1 - probability))
