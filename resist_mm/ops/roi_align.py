"""RoIAlign (He et al., "Mask R-CNN", ICCV 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align

from .differentiate import gradients, wide
from .stand_in import HOW_TO_BUILD

__all__ = ['roi_align_backward', 'roi_align_forward']

AVERAGE = 1


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Averages bilinear samples of each bin of each region.

    Args:
        input: Feature map, shape (N, C, H, W).
        rois: Index of the image, x1, y1, x2, y2; shape (K, 5).
        output: Output, shape (K, C, aligned_height, aligned_width).
        argmax_y: Of ``pool_mode`` 0; not used.
        argmax_x: Of ``pool_mode`` 0; not used.
        aligned_height: Bins of a region.
        aligned_width: Bins of a region.
        spatial_scale: Size of the feature map to that of the image.
        sampling_ratio: Samples of a bin per side; 0: as many as the bin has pixels.
        pool_mode: 1, average.
        aligned: Whether pixels are where their centres are, half a pixel off.

    Raises:
        NotImplementedError: For ``pool_mode`` 0, the maximum, which torchvision does not have.
    """
    _check(pool_mode)
    size = (aligned_height, aligned_width)
    pooled = roi_align(wide(input), wide(rois).to(wide(input).dtype), size, spatial_scale, sampling_ratio, aligned)
    output.copy_(pooled)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Adds the gradient of the feature map to ``grad_input``; see :func:`roi_align_forward`.

    The op is linear, so that its gradient needs no feature map, just its shape.
    """
    _check(pool_mode)
    size = (aligned_height, aligned_width)

    def forward(features: Tensor) -> Tensor:
        return roi_align(features, wide(rois).to(features.dtype), size, spatial_scale, sampling_ratio, aligned)

    (gradient,) = gradients(forward, [torch.zeros_like(grad_input)], grad_output)
    grad_input += gradient.to(grad_input.dtype)


def _check(pool_mode: int) -> None:
    if pool_mode != AVERAGE:
        raise NotImplementedError(
            f"RoIAlign with pool_mode='max' is not in resist_mm.ops; use pool_mode='avg'. {HOW_TO_BUILD}"
        )
