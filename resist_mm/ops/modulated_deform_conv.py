"""Modulated deformable convolution (Zhu et al., "Deformable ConvNets v2", CVPR 2019)."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import deform_conv2d

from .differentiate import gradients, wide

__all__ = ['modulated_deform_conv_backward', 'modulated_deform_conv_forward']


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Convolves with taps that are moved by ``offset`` and multiplied by ``mask``.

    Args:
        input: Shape (N, C, H, W).
        weight: Shape (C_out, C / group, kernel_h, kernel_w).
        bias: Shape (C_out,); of no meaning without ``with_bias``.
        ones: Memory of mmcv's kernel; not used.
        offset: y and x of each tap, in pixels,
            shape (N, deformable_group * kernel_h * kernel_w * 2, H_out, W_out).
        mask: Factor of each tap, shape (N, deformable_group * kernel_h * kernel_w, H_out, W_out).
        output: Output, shape (N, C_out, H_out, W_out).
        columns: Memory of mmcv's kernel; not used.
        kernel_h: Height of the kernel.
        kernel_w: Width of the kernel.
        stride_h: Stride.
        stride_w: Stride.
        pad_h: Padding.
        pad_w: Padding.
        dilation_h: Dilation.
        dilation_w: Dilation.
        group: Groups of the convolution; follow from the shapes.
        deformable_group: Groups of channels with their own offsets; follow from the shapes.
        with_bias: Whether the bias is added.
    """
    convolve = _convolution((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    biases = [wide(bias)] if with_bias else []
    output.copy_(convolve(wide(input), wide(offset), wide(mask), wide(weight), *biases))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Writes the gradients of offset and mask, adds those of input, weight and bias to what is there.

    See :func:`modulated_deform_conv_forward`.
    """
    convolve = _convolution((stride_h, stride_w), (pad_h, pad_w), (dilation_h, dilation_w))
    inputs = [input, offset, mask, weight, *([bias] if with_bias else [])]
    of_input, of_offset, of_mask, of_weight, *of_bias = gradients(convolve, inputs, grad_output)
    grad_offset.copy_(of_offset)
    grad_mask.copy_(of_mask)
    grad_input += of_input.to(grad_input.dtype)
    grad_weight += of_weight.to(grad_weight.dtype)
    if with_bias:
        grad_bias += of_bias[0].to(grad_bias.dtype)


def _convolution(
    stride: tuple[int, int], padding: tuple[int, int], dilation: tuple[int, int]
) -> Callable[..., Tensor]:
    def convolve(
        input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        return deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask)

    return convolve
