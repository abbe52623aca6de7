"""Deformable convolutions against mmcv's compiled ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from .oracle import DEVICES, assert_same

# kernel, stride, padding, dilation (height, width each), groups, groups of offsets
CASES = [
    ((3, 3), (1, 1), (1, 1), (1, 1), 1, 1),
    ((3, 3), (2, 2), (1, 1), (1, 1), 2, 1),
    ((3, 3), (1, 1), (2, 2), (2, 2), 1, 2),
    ((1, 3), (2, 1), (0, 1), (1, 1), 2, 4),
    ((3, 2), (1, 2), (2, 1), (2, 1), 4, 2),
]
NAMES = [f'case{index}' for index in range(len(CASES))]
BATCH, CHANNELS, OUT, HEIGHT, WIDTH = 4, 8, 12, 9, 11


class Inputs:
    """Random tensors of a case; offsets reach over the border."""

    def __init__(self, case: tuple) -> None:
        (kh, kw), stride, padding, dilation, groups, offset_groups = case
        generator = torch.Generator().manual_seed(0)

        def random(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.height = (HEIGHT + 2 * padding[0] - dilation[0] * (kh - 1) - 1) // stride[0] + 1
        self.width = (WIDTH + 2 * padding[1] - dilation[1] * (kw - 1) - 1) // stride[1] + 1
        self.input = random(BATCH, CHANNELS, HEIGHT, WIDTH)
        self.weight = random(OUT, CHANNELS // groups, kh, kw)
        self.bias = random(OUT)
        self.offset = 3 * random(BATCH, offset_groups * kh * kw * 2, self.height, self.width)
        self.mask = random(BATCH, offset_groups * kh * kw, self.height, self.width).sigmoid()
        self.grad_output = random(BATCH, OUT, self.height, self.width)
        self.output = torch.zeros_like(self.grad_output)
        self.unused = torch.zeros(0)


def options_of(case: tuple) -> dict:
    (kh, kw), stride, padding, dilation, groups, offset_groups = case
    return dict(
        kW=kw,
        kH=kh,
        dW=stride[1],
        dH=stride[0],
        padW=padding[1],
        padH=padding[0],
        dilationW=dilation[1],
        dilationH=dilation[0],
        group=groups,
        deformable_group=offset_groups,
    )


def modulated_options_of(case: tuple) -> dict:
    (kh, kw), stride, padding, dilation, groups, offset_groups = case
    return dict(
        kernel_h=kh,
        kernel_w=kw,
        stride_h=stride[0],
        stride_w=stride[1],
        pad_h=padding[0],
        pad_w=padding[1],
        dilation_h=dilation[0],
        dilation_w=dilation[1],
        group=groups,
        deformable_group=offset_groups,
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('im2col_step', [1, 4])
@pytest.mark.parametrize('case', CASES, ids=NAMES)
def test_forward(case: tuple, im2col_step: int, device: str):
    x = Inputs(case)
    tensors = (x.input, x.weight, x.offset, x.output, x.unused, x.unused)
    _, after = assert_same(
        'deform_conv_forward', *tensors, device=device, im2col_step=im2col_step, **options_of(case)
    )
    assert after[3].abs().sum() > 0


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('start', [0.0, 1.0])
@pytest.mark.parametrize('case', CASES, ids=NAMES)
def test_backward_of_the_input(case: tuple, start: float, device: str):
    x = Inputs(case)
    grads = (torch.full_like(x.input, start), torch.full_like(x.offset, start))
    tensors = (x.input, x.offset, x.grad_output, *grads, x.weight, x.unused)
    assert_same(
        'deform_conv_backward_input', *tensors, device=device, atol=1e-4, im2col_step=4, **options_of(case)
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('start, scale', [(0.0, 1), (1.0, 0.5)])
@pytest.mark.parametrize('case', CASES, ids=NAMES)
def test_backward_of_the_weight(case: tuple, start: float, scale: float, device: str):
    x = Inputs(case)
    grad_weight = torch.full_like(x.weight, start)
    tensors = (x.input, x.offset, x.grad_output, grad_weight, x.unused, x.unused)
    assert_same(
        'deform_conv_backward_parameters',
        *tensors,
        device=device,
        atol=1e-4,
        scale=scale,
        im2col_step=4,
        **options_of(case),
    )


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('case', CASES, ids=NAMES)
def test_modulated_forward(case: tuple, with_bias: bool, device: str):
    x = Inputs(case)
    # without a bias mmcv hands an empty one over
    bias = x.bias if with_bias else x.unused
    tensors = (x.input, x.weight, bias, x.unused, x.offset, x.mask, x.output, x.unused)
    options = dict(with_bias=with_bias, **modulated_options_of(case))
    assert_same('modulated_deform_conv_forward', *tensors, device=device, **options)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('start', [0.0, 1.0])
@pytest.mark.parametrize('with_bias', [True, False])
@pytest.mark.parametrize('case', CASES, ids=NAMES)
def test_modulated_backward(case: tuple, with_bias: bool, start: float, device: str):
    x = Inputs(case)
    bias = x.bias if with_bias else x.unused
    inputs = (x.input, x.weight, bias, x.offset, x.mask)
    grads = [torch.full_like(tensor, start) for tensor in inputs]
    tensors = (x.input, x.weight, bias, x.unused, x.offset, x.mask, x.unused, *grads, x.grad_output)
    options = dict(with_bias=with_bias, **modulated_options_of(case))
    assert_same('modulated_deform_conv_backward', *tensors, device=device, atol=1e-4, **options)
