"""RoIAlign against mmcv's compiled one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resist_mm.ops.roi_align import roi_align_backward, roi_align_forward

from .oracle import DEVICES, assert_same

CASES = [
    dict(aligned_height=7, aligned_width=7, spatial_scale=0.25, sampling_ratio=0, aligned=True),
    dict(aligned_height=7, aligned_width=7, spatial_scale=0.25, sampling_ratio=2, aligned=True),
    dict(aligned_height=3, aligned_width=5, spatial_scale=0.25, sampling_ratio=0, aligned=False),
    dict(aligned_height=3, aligned_width=5, spatial_scale=0.5, sampling_ratio=3, aligned=False),
]


def inputs(case: dict) -> tuple[Tensor, Tensor, Tensor]:
    """A feature map, regions inside, across and outside its border, and an output."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 16, 20, generator=generator)
    corner = torch.rand(12, 2, generator=generator) * 60 - 10
    sides = torch.rand(12, 2, generator=generator) * 50
    sides[0] = 0
    rois = torch.cat([torch.arange(12)[:, None] % 2, corner, corner + sides], dim=1)
    rois[-1, 1:] = torch.tensor([200.0, 200, 300, 300])
    return features, rois, torch.zeros(12, 3, case['aligned_height'], case['aligned_width'])


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('case', CASES)
def test_forward(case: dict, device: str):
    empty = torch.zeros(0)
    _, after = assert_same('roi_align_forward', *inputs(case), empty, empty, device=device, pool_mode=1, **case)
    assert after[2].abs().sum() > 0


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('case', CASES)
def test_backward_adds_to_what_is_there(case: dict, device: str):
    features, rois, output = inputs(case)
    empty = torch.zeros(0)
    for start in (torch.zeros_like(features), torch.ones_like(features)):
        tensors = (torch.randn_like(output), rois, empty, empty, start)
        _, after = assert_same('roi_align_backward', *tensors, device=device, pool_mode=1, **case)
        assert (after[-1] - start.to(device)).abs().sum() > 0


def test_no_region():
    features, rois, output = inputs(CASES[0])
    empty = torch.zeros(0)
    roi_align_forward(features, rois[:0], output[:0], empty, empty, pool_mode=1, **CASES[0])
    gradient = torch.zeros_like(features)
    roi_align_backward(output[:0], rois[:0], empty, empty, gradient, pool_mode=1, **CASES[0])
    assert not gradient.any()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision(dtype: torch.dtype):
    features, rois, output = (tensor.to(dtype) for tensor in inputs(CASES[0]))
    exact = torch.zeros_like(output, dtype=torch.float32)
    empty = torch.zeros(0)
    roi_align_forward(features, rois, output, empty, empty, pool_mode=1, **CASES[0])
    roi_align_forward(features.float(), rois.float(), exact, empty, empty, pool_mode=1, **CASES[0])
    assert torch.equal(output, exact.to(dtype))


def test_the_maximum_is_refused():
    features, rois, output = inputs(CASES[0])
    empty = torch.zeros(0)
    with pytest.raises(NotImplementedError, match=r"pool_mode='max' is not in resist_mm.ops; .*--with-ops"):
        roi_align_forward(features, rois, output, empty, empty, pool_mode=0, **CASES[0])
