"""Non-maximum suppression."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import nms as torchvision_nms

from .differentiate import wide

__all__ = ['nms']


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Which boxes stay when each suppresses those of lower score that it overlaps by more than the threshold.

    Args:
        boxes: Corners x1, y1, x2, y2, shape (N, 4).
        scores: Shape (N,).
        iou_threshold: Largest IoU that is not suppressed.
        offset: 0, or 1 if corners are pixels and both belong to the box: a side is then x2 - x1 + 1.

    Returns:
        Indices of boxes by falling score, int64, shape (number of boxes that stay,).
    """
    boxes = wide(boxes.detach())
    if offset:
        boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + offset], dim=1)
    # sorted as mmcv sorts, so that equal scores come in its order; torchvision then gets the places as scores
    order = scores.sort(descending=True).indices
    places = torch.arange(len(boxes), 0, -1, dtype=boxes.dtype, device=boxes.device)
    # mmcv compares in float32, torchvision in float64: an IoU equal to the threshold must not exceed it
    threshold = torch.tensor(iou_threshold, dtype=torch.float32).item()
    return order[torchvision_nms(boxes[order], places, threshold)]
