"""Soft non-maximum suppression (Bodla et al., ICCV 2017, arXiv:1704.04503)."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['softnms']

NAIVE, LINEAR, GAUSSIAN = range(3)


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Lowers the score of a box by how much a box of higher score overlaps it, instead of dropping it.

    Equal scores are taken in mmcv's order, which moves the last box into the place of a dropped one.

    Args:
        boxes: Corners x1, y1, x2, y2, shape (N, 4).
        scores: Shape (N,).
        dets: Output, shape (N, 5): the boxes that stay and their new scores, in the order of the result; rows
            after them are left alone.
        iou_threshold: Least IoU that lowers a score, of the methods 0 and 1.
        sigma: Width of method 2.
        min_score: A box whose score is lowered below this is dropped.
        method: 0 naive (to zero), 1 linear (by 1 - IoU), 2 gaussian (by exp(-IoU^2 / sigma)).
        offset: 0, or 1 if a side is x2 - x1 + 1.

    Returns:
        Indices of the boxes that stay, by falling new score, int64.
    """
    if method not in (NAIVE, LINEAR, GAUSSIAN):
        raise ValueError(f'method must be 0 (naive), 1 (linear) or 2 (gaussian), got {method}')
    boxes, scores = boxes.detach().clone(), scores.detach().clone()
    areas = (boxes[:, 2] - boxes[:, 0] + offset) * (boxes[:, 3] - boxes[:, 1] + offset)
    indices = torch.arange(len(boxes), device=boxes.device)
    place, count = 0, len(boxes)
    while place < count:
        best = place + int(scores[place:count].argmax())
        for values in (boxes, scores, areas, indices):
            values[[place, best]] = values[[best, place]]
        rest = slice(place + 1, count)
        overlap = _iou(boxes[place], areas[place], boxes[rest], areas[rest], offset)
        scores[rest] *= _weight(overlap, iou_threshold, sigma, method)
        order, count = _without(scores[:count] < min_score, place + 1)
        for values in (boxes, scores, areas, indices):
            values[place + 1 : count] = values[order]
        place += 1
    dets[:count] = torch.cat([boxes[:count], scores[:count, None]], dim=1).to(dets.dtype)
    return indices[:count]


def _iou(box: Tensor, area: Tensor, others: Tensor, areas: Tensor, offset: int) -> Tensor:
    corner = torch.maximum(box[:2], others[:, :2])
    opposite = torch.minimum(box[2:], others[:, 2:])
    intersection = (opposite - corner + offset).clamp(min=0).prod(dim=1)
    return intersection / (area + areas - intersection)


def _weight(overlap: Tensor, iou_threshold: float, sigma: float, method: int) -> Tensor:
    if method == GAUSSIAN:
        return torch.exp(-(overlap * overlap) / sigma)
    lowered = torch.zeros_like(overlap) if method == NAIVE else 1 - overlap
    return torch.where(overlap >= iou_threshold, lowered, torch.ones_like(overlap))


def _without(dropped: Tensor, start: int) -> tuple[Tensor, int]:
    """The places after ``start`` without the dropped ones, and how many places there are then in all.

    Each gap is closed with the last that stays, as mmcv's loop does it.
    """
    dropped = dropped.clone()
    dropped[:start] = False
    count = len(dropped) - int(dropped.sum())
    order = torch.arange(count, device=dropped.device)
    gaps = dropped[:count].nonzero().flatten()
    last = (~dropped[count:]).nonzero().flatten().flip(0) + count
    order[gaps] = last
    return order[start:], count
