"""Which predictor of YOLOv2 is responsible for which object."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

__all__ = ['YOLOV2Targets', 'boxes_of', 'build_targets']


class YOLOV2Targets(NamedTuple):
    """Targets of every predictor of a batch, in the order of mmdet's ``grid_priors``.

    N images, P predictors (cells x priors) per image.
    """

    responsible: Tensor
    """(N, P) bool: the predictor has an object."""
    boxes: Tensor
    """(N, P, 4): the box of that object; the predictor's own prior where there is none."""
    labels: Tensor
    """(N, P) int64: the class of that object; 0 where there is none."""


def boxes_of(instances: InstanceData | None, like: Tensor) -> Tensor:
    """Boxes (n, 4) of instances in the dtype and on the device of ``like``; none where there is no field."""
    if instances is None or 'bboxes' not in instances:
        return like.new_zeros(0, 4)
    return get_box_tensor(instances.bboxes).to(like)


def build_targets(
    batch_boxes: Sequence[Tensor],
    batch_labels: Sequence[Tensor],
    priors: Tensor,
    featmap_size: tuple[int, int],
    stride: float,
) -> YOLOV2Targets:
    """Give every object a predictor: in the cell of its centre, the prior that is closest in size.

    As in `YOLO9000 <https://arxiv.org/abs/1612.08242>`_, section 2, "closest" is the best IoU of two boxes
    that share their centre. Where several objects of a cell want the same prior, see :func:`_deal_priors`.
    A centre on the right or bottom edge of the map belongs to the last cell. Boxes without area are
    skipped.

    Args:
        batch_boxes (Sequence[Tensor]): N tensors of shape (num_objects, 4), (x1, y1, x2, y2) in pixels.
        batch_labels (Sequence[Tensor]): N tensors of shape (num_objects, ).
        priors (Tensor): (P, 4) priors of all cells: row by row, the priors of a cell beside each other.
        featmap_size (tuple[int, int]): Height and width of the feature map in cells.
        stride (float): Side of a cell in pixels.

    Returns:
        YOLOV2Targets: On the device of ``priors``.
    """
    height, width = featmap_size
    num_images, device = len(batch_boxes), priors.device
    num_priors = priors.size(0) // (height * width)

    boxes = torch.cat([b.reshape(-1, 4) for b in batch_boxes]).to(priors)
    labels = torch.cat([label.reshape(-1) for label in batch_labels]).to(device, torch.long)
    counts = torch.tensor([len(b) for b in batch_boxes], device=device)
    image = torch.arange(num_images, device=device).repeat_interleave(counts)
    sizes = boxes[:, 2:] - boxes[:, :2]
    has_area = (sizes > 0).all(dim=1)
    boxes, labels, image, sizes = boxes[has_area], labels[has_area], image[has_area], sizes[has_area]

    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    column = (centers[:, 0] / stride).floor().long().clamp(0, width - 1)
    row = (centers[:, 1] / stride).floor().long().clamp(0, height - 1)
    cell = (image * height + row) * width + column

    prior_sizes = priors[:num_priors, 2:] - priors[:num_priors, :2]
    prior = _deal_priors(_size_ious(sizes, prior_sizes), cell, num_images * height * width)

    dealt = prior >= 0
    predictor = (cell * num_priors + prior)[dealt]
    responsible = torch.zeros(num_images * len(priors), dtype=torch.bool, device=device)
    responsible[predictor] = True
    target_boxes = priors.repeat(num_images, 1)
    target_boxes[predictor] = boxes[dealt]
    target_labels = torch.zeros_like(responsible, dtype=torch.long)
    target_labels[predictor] = labels[dealt]
    return YOLOV2Targets(
        responsible.view(num_images, -1),
        target_boxes.view(num_images, -1, 4),
        target_labels.view(num_images, -1),
    )


def _size_ious(sizes: Tensor, prior_sizes: Tensor) -> Tensor:
    """IoU of every object with every prior as if they had the same centre.

    Args:
        sizes (Tensor): (M, 2) widths and heights of the objects.
        prior_sizes (Tensor): (A, 2) widths and heights of the priors.

    Returns:
        Tensor: (M, A).
    """
    overlap = torch.minimum(sizes[:, None], prior_sizes).prod(dim=-1)
    return overlap / (sizes.prod(dim=-1)[:, None] + prior_sizes.prod(dim=-1) - overlap)


def _deal_priors(ious: Tensor, cell: Tensor, num_cells: int) -> Tensor:
    """Assign the priors of each cell to the objects in it, each to at most one object.

    In every turn each object that has no prior yet requests the one it fits best among those that are free
    in its cell; the object with the highest IoU gets it (in a tie, the one with the lower index). Every turn
    assigns at least one prior of a cell in which objects are waiting. So after as many turns as there are
    priors, an object is left out only if its cell has more objects than priors.

    Args:
        ious (Tensor): (M, A) size IoU of each of M objects with each of A priors.
        cell (Tensor): (M, ) index of each object's cell, over the whole batch.
        num_cells (int): Number of cells of the whole batch.

    Returns:
        Tensor: (M, ) index of each object's prior, -1 for an object left out.
    """
    num_objects, num_priors = ious.shape
    index = torch.arange(num_objects, device=ious.device)
    prior = torch.full_like(index, -1)
    taken = torch.zeros(num_cells, num_priors, dtype=torch.bool, device=ious.device)
    for _ in range(num_priors):
        iou, choice = ious.masked_fill(taken[cell], -1).max(dim=1)
        slot = cell * num_priors + choice
        iou = iou.masked_fill(prior >= 0, -1)
        highest = iou.new_full((taken.numel(),), -1).scatter_reduce(0, slot, iou, 'amax')
        contender = index.masked_fill((iou < 0) | (iou < highest[slot]), num_objects)
        winner = index.new_full((taken.numel(),), num_objects).scatter_reduce(0, slot, contender, 'amin')
        prior = torch.where(winner[slot] == index, choice, prior)
        taken |= (winner < num_objects).view_as(taken)
    return prior
