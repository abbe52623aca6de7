"""Deformable convolution (Dai et al., ICCV 2017)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import deform_conv2d

from .differentiate import gradients, wide

__all__ = ['deform_conv_backward_input', 'deform_conv_backward_parameters', 'deform_conv_forward']


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Convolves with taps that are moved by ``offset``.

    Args:
        input: Shape (N, C, H, W).
        weight: Shape (C_out, C / group, kH, kW).
        offset: y and x of each tap, in pixels, shape (N, deformable_group * kH * kW * 2, H_out, W_out).
        output: Output, shape (N, C_out, H_out, W_out).
        columns: Memory of mmcv's kernel; not used.
        ones: Memory of mmcv's kernel; not used.
        kW: Width of the kernel.
        kH: Height of the kernel.
        dW: Stride.
        dH: Stride.
        padW: Padding.
        padH: Padding.
        dilationW: Dilation.
        dilationH: Dilation.
        group: Groups of the convolution; follow from the shapes.
        deformable_group: Groups of channels with their own offsets; follow from the shapes.
        im2col_step: Images at a time in mmcv's kernel; not used.
    """
    convolve = _convolution((dH, dW), (padH, padW), (dilationH, dilationW))
    output.copy_(convolve(wide(input), wide(offset), wide(weight)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Adds the gradient of the input to ``gradInput``, writes that of the offset.

    See :func:`deform_conv_forward`.
    """
    convolve = _convolution((dH, dW), (padH, padW), (dilationH, dilationW))
    of_input, of_offset = gradients(convolve, [input, offset, weight], gradOutput, wanted=[0, 1])
    gradInput += of_input.to(gradInput.dtype)
    gradOffset.copy_(of_offset)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Adds ``scale`` times the gradient of the weight to ``gradWeight``; see :func:`deform_conv_forward`.

    mmcv does not hand the weight over: the op is linear in it, so that its shape is enough.
    """
    convolve = _convolution((dH, dW), (padH, padW), (dilationH, dilationW))
    weight = gradWeight.new_zeros(gradWeight.shape)
    (of_weight,) = gradients(convolve, [input, offset, weight], gradOutput, wanted=[2])
    gradWeight.add_(of_weight.to(gradWeight.dtype), alpha=scale)


def _convolution(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Callable[..., Tensor]:
    def convolve(input: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
        return deform_conv2d(input, offset, weight, None, stride, padding, dilation)

    return convolve
