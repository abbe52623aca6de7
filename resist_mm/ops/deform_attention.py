"""Multi-scale deformable attention (Zhu et al., "Deformable DETR", ICLR 2021)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .differentiate import gradients, wide

__all__ = ['ms_deform_attn_backward', 'ms_deform_attn_forward']


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Sums bilinear samples of all levels, weighted.

    Args:
        value: All levels one after the other, shape (N, pixels of all levels, heads, C).
        value_spatial_shapes: Height and width of the levels, int64, shape (levels, 2).
        value_level_start_index: Where a level begins in ``value``, int64, shape (levels,).
        sampling_locations: x and y in 0 to 1, shape (N, queries, heads, levels, points, 2).
        attention_weights: Shape (N, queries, heads, levels, points).
        im2col_step: Images at a time in mmcv's kernel; not used.

    Returns:
        Shape (N, queries, heads * C).
    """
    levels = _levels(value_spatial_shapes, value_level_start_index)
    return _attend(levels, wide(value), wide(sampling_locations), wide(attention_weights)).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Adds the gradient of ``value`` to ``grad_value``, writes the others; see :func:`ms_deform_attn_forward`."""
    levels = _levels(value_spatial_shapes, value_level_start_index)

    def forward(*inputs: Tensor) -> Tensor:
        return _attend(levels, *inputs)

    of_value, of_location, of_weight = gradients(
        forward, [value, sampling_locations, attention_weights], grad_output
    )
    grad_value += of_value.to(grad_value.dtype)
    grad_sampling_loc.copy_(of_location)
    grad_attn_weight.copy_(of_weight)


def _levels(shapes: Tensor, starts: Tensor) -> list[tuple[int, int, int]]:
    """Start, height and width of every level."""
    return [
        (start, height, width) for start, (height, width) in zip(starts.tolist(), shapes.tolist(), strict=True)
    ]


def _attend(levels: list[tuple[int, int, int]], value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    images, _, heads, channels = value.shape
    queries = locations.shape[1]
    # grid_sample counts from -1 to 1; the heads become images of their own
    grids = (2 * locations - 1).transpose(1, 2).flatten(0, 1)
    weights = weights.transpose(1, 2).flatten(0, 1)
    output = value.new_zeros(images * heads, channels, queries)
    for level, (start, height, width) in enumerate(levels):
        pixels = value[:, start : start + height * width].permute(0, 2, 3, 1)
        features = pixels.reshape(images * heads, channels, height, width)
        samples = F.grid_sample(features, grids[:, :, level], 'bilinear', 'zeros', align_corners=False)
        output = output + (samples * weights[:, None, :, level]).sum(dim=-1)
    return output.view(images, heads * channels, queries).transpose(1, 2).contiguous()
