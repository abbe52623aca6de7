"""NMS and soft NMS against mmcv's compiled ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from resist_mm.ops.nms import nms
from resist_mm.ops.soft_nms import softnms

from .oracle import DEVICES, assert_same, compiled_ops


def some_boxes(number: int, seed: int = 0, size: float = 100.0) -> tuple[Tensor, Tensor]:
    """Boxes that overlap a lot, and their scores."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(number, 2, generator=generator) * size
    sides = torch.rand(number, 2, generator=generator) * size / 2
    return torch.cat([corner, corner + sides], dim=1), torch.rand(number, generator=generator)


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('threshold', [0.0, 0.3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize('number', [0, 1, 300])
def test_nms(number: int, threshold: float, offset: int, device: str):
    boxes, scores = some_boxes(number)
    kept, _ = assert_same('nms', boxes, scores, device=device, iou_threshold=threshold, offset=offset)
    assert number == 0 or 0 < len(kept) <= number


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('seed', range(5))
def test_nms_of_pixels_with_equal_scores(seed: int, offset: int):
    # whole numbers: many IoUs are equal, many lie on a threshold
    boxes, scores = some_boxes(200, seed, size=12)
    for threshold in (0.2, 0.25, 0.5, 0.6, 0.75):
        assert_same('nms', boxes.round(), (scores * 5).round(), iou_threshold=threshold, offset=offset)


def test_nms_at_the_threshold():
    # IoU 0.6 in float32 is more than 0.6 in float64; mmcv does not suppress it
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6]])
    scores = torch.tensor([0.9, 0.8])
    assert nms(boxes, scores, 0.6, 0).tolist() == [0, 1]
    assert nms(boxes, scores, 0.59, 0).tolist() == [0]
    assert_same('nms', boxes, scores, iou_threshold=0.6, offset=0)


def test_nms_of_boxes_without_area_and_turned_boxes():
    boxes = torch.tensor([[5.0, 5, 5, 5], [5, 5, 5, 5], [9, 9, 1, 1], [1, 1, 9, 9], [3, 3, 3, 8]])
    for offset in (0, 1):
        assert_same('nms', boxes, torch.rand(5), iou_threshold=0.5, offset=offset)


@pytest.mark.parametrize('box_type, score_type', [(torch.float32, torch.float16), (torch.bfloat16, torch.float32)])
def test_nms_of_mixed_types(box_type: torch.dtype, score_type: torch.dtype):
    boxes, scores = some_boxes(50)
    boxes, scores = boxes.to(box_type), scores.to(score_type)
    assert torch.equal(nms(boxes, scores, 0.5, 0), nms(boxes.float(), scores.float(), 0.5, 0))


def test_nms_takes_tensors_with_a_graph():
    boxes, scores = (tensor.requires_grad_() for tensor in some_boxes(20))
    assert not nms(boxes, scores, 0.5, 0).requires_grad


@pytest.mark.parametrize('offset', [0, 1])
@pytest.mark.parametrize('method', [0, 1, 2])
@pytest.mark.parametrize('min_score', [0.0, 0.001, 0.2, 0.6])
@pytest.mark.parametrize('number', [0, 1, 2, 120])
def test_soft_nms(number: int, min_score: float, method: int, offset: int):
    boxes, scores = some_boxes(number)
    options = dict(iou_threshold=0.3, sigma=0.5, min_score=min_score, method=method, offset=offset)
    kept, _ = assert_same('softnms', boxes, scores, torch.zeros(number, 5), **options)
    assert number < 100 or min_score < 0.2 or 0 < len(kept) < number


@pytest.mark.parametrize('method', [0, 1])
@pytest.mark.parametrize('seed', range(10))
def test_soft_nms_with_equal_scores(seed: int, method: int):
    # equal scores are taken in the order that dropping boxes leaves
    boxes, scores = some_boxes(60, seed, size=20)
    options = dict(iou_threshold=0.2, sigma=0.5, min_score=0.1, method=method, offset=0)
    assert_same('softnms', boxes.round(), (scores * 4).round() / 4, torch.zeros(60, 5), **options)


def test_soft_nms_of_a_method_that_is_none():
    boxes, scores = some_boxes(3)
    with pytest.raises(ValueError, match=r'method must be 0 \(naive\), 1 \(linear\) or 2 \(gaussian\), got 3'):
        softnms(boxes, scores, torch.zeros(3, 5), 0.3, 0.5, 0.1, 3, 0)


def test_the_oracle_is_compiled_code():
    assert compiled_ops().__file__.endswith('.so')
