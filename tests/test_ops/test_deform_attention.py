"""Deformable attention: mmcv compiles it for GPUs only and has a Python function for the CPU, the measure here."""

from __future__ import annotations

import pytest
import torch
from mmcv.ops.multi_scale_deform_attn import multi_scale_deformable_attn_pytorch
from torch import Tensor

from resist_mm.ops.deform_attention import ms_deform_attn_backward, ms_deform_attn_forward

from .oracle import assert_same

SHAPES = torch.tensor([[6, 9], [3, 5], [1, 2]])
STARTS = torch.tensor([0, 54, 69])


def inputs(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Values, locations (some outside) and weights: 2 images, 4 heads of 3 channels, 7 queries, 2 points."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 71, 4, 3, generator=generator, dtype=dtype)
    locations = 1.4 * torch.rand(2, 7, 4, 3, 2, 2, generator=generator, dtype=dtype) - 0.2
    weights = torch.rand(2, 7, 4, 3, 2, generator=generator, dtype=dtype).flatten(3).softmax(-1)
    return value, locations, weights.view(2, 7, 4, 3, 2)


def test_values_and_gradients_as_mmcv_in_python():
    leaves = [tensor.requires_grad_() for tensor in inputs()]
    expected = multi_scale_deformable_attn_pytorch(leaves[0], SHAPES, leaves[1], leaves[2])
    grad_output = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, leaves, grad_output)

    value, locations, weights = (leaf.detach() for leaf in leaves)
    output = ms_deform_attn_forward(value, SHAPES, STARTS, locations, weights, im2col_step=64)
    torch.testing.assert_close(output, expected.detach())
    gradients = [torch.zeros_like(tensor) for tensor in (value, locations, weights)]
    ms_deform_attn_backward(value, SHAPES, STARTS, locations, weights, grad_output, *gradients, im2col_step=64)
    torch.testing.assert_close(gradients, list(expected_gradients))


def test_samples_by_hand():
    # one image, one head, one channel, one query, one point: the centre between four pixels of the second level
    value = torch.arange(10.0).view(1, 10, 1, 1)
    shapes, starts = torch.tensor([[2, 3], [2, 2]]), torch.tensor([0, 6])
    locations = torch.full((1, 1, 1, 2, 1, 2), 0.5)
    weights = torch.tensor([0.0, 2.0]).view(1, 1, 1, 2, 1)
    output = ms_deform_attn_forward(value, shapes, starts, locations, weights, im2col_step=1)
    assert output.tolist() == [[[2 * (6 + 7 + 8 + 9) / 4]]]


def test_levels_begin_where_the_start_index_says():
    value, locations, weights = inputs()
    padded = torch.cat([torch.full_like(value[:, :5], torch.nan), value], dim=1)
    expected = ms_deform_attn_forward(value, SHAPES, STARTS, locations, weights, im2col_step=64)
    output = ms_deform_attn_forward(padded, SHAPES, STARTS + 5, locations, weights, im2col_step=64)
    assert torch.equal(output, expected)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    tensors = [tensor.to(dtype) for tensor in inputs()]
    output = ms_deform_attn_forward(tensors[0], SHAPES, STARTS, *tensors[1:], im2col_step=64)
    wide = [tensor.float() for tensor in tensors]
    exact = ms_deform_attn_forward(wide[0], SHAPES, STARTS, *wide[1:], im2col_step=64)
    assert output.dtype == dtype and torch.equal(output, exact.to(dtype))


@pytest.mark.gpu
def test_as_compiled():
    value, locations, weights = inputs(torch.float32)
    output, _ = assert_same(
        'ms_deform_attn_forward', value, SHAPES, STARTS, locations, weights, device='cuda', im2col_step=2
    )
    grads = [torch.zeros_like(tensor) for tensor in (value, locations, weights)]
    tensors = (value, SHAPES, STARTS, locations, weights, torch.randn(output.shape), *grads)
    assert_same('ms_deform_attn_backward', *tensors, device='cuda', im2col_step=2)
