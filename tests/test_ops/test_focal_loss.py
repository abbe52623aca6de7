"""Focal loss: mmcv compiles it for GPUs only, so that on the CPU mmdet's own Python function is the measure."""

from __future__ import annotations

import pytest
import torch
from mmdet.models.losses.focal_loss import py_focal_loss_with_prob, py_sigmoid_focal_loss
from torch import Tensor

from resist_mm.ops.focal_loss import sigmoid_focal_loss_backward, sigmoid_focal_loss_forward

from .oracle import assert_same

CLASSES = 5


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Logits, and targets with every class and background among them."""
    generator = torch.Generator().manual_seed(0)
    return 4 * torch.randn(40, CLASSES, generator=generator, dtype=dtype), torch.arange(40) % (CLASSES + 1)


def loss_and_gradient(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> list[Tensor]:
    loss, gradient = torch.zeros_like(logits), torch.zeros_like(logits)
    sigmoid_focal_loss_forward(logits, target, weight, loss, gamma, alpha)
    sigmoid_focal_loss_backward(logits, target, weight, gradient, gamma, alpha)
    return [loss, gradient]


@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (1.5, 0.3), (2.0, 0.5), (0.0, 0.1)])
def test_as_mmdet_in_python(gamma: float, alpha: float):
    logits, target = inputs(torch.float64)
    logits.requires_grad_()
    one_hot = torch.nn.functional.one_hot(target, CLASSES + 1)[:, :CLASSES]
    expected = py_sigmoid_focal_loss(logits, one_hot, gamma=gamma, alpha=alpha, reduction='none')
    (gradient,) = torch.autograd.grad(expected.sum(), logits)
    loss, ours = loss_and_gradient(logits.detach(), target, logits.new_empty(0), gamma, alpha)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(ours, gradient)
    # and from the probabilities, another way of mmdet's
    by_probability = py_focal_loss_with_prob(logits.sigmoid(), target, gamma=gamma, alpha=alpha, reduction='none')
    torch.testing.assert_close(loss, by_probability.detach())


def by_the_kernel(logits: Tensor, target: Tensor, weight: Tensor, gamma: float, alpha: float) -> list[Tensor]:
    """The formulas of mmcv's sigmoid_focal_loss_cuda_kernel.cuh, one element after the other."""
    loss, gradient = torch.zeros_like(logits), torch.zeros_like(logits)
    for n in range(len(logits)):
        t = int(target[n])
        for c in range(logits.shape[1]):
            p = 1 / (1 + torch.exp(-logits[n, c]))
            if t == c:
                loss[n, c] = -alpha * (1 - p) ** gamma * p.log()
                gradient[n, c] = -alpha * (1 - p) ** gamma * (1 - p - gamma * p * p.log())
            else:
                loss[n, c] = -(1 - alpha) * p**gamma * (1 - p).log()
                gradient[n, c] = -(1 - alpha) * p**gamma * (gamma * (1 - p) * (1 - p).log() - p)
            if len(weight):
                loss[n, c] *= weight[t]
                gradient[n, c] *= weight[t]
    return [loss, gradient]


@pytest.mark.parametrize('alpha', [0.25, -0.5])
def test_weight_of_the_target_class_and_any_alpha(alpha: float):
    logits, target = inputs(torch.float64)
    logits, target = logits[target < CLASSES], target[target < CLASSES]
    weight = torch.rand(CLASSES, dtype=torch.float64)
    expected = by_the_kernel(logits, target, weight, 2.0, alpha)
    for ours, theirs in zip(loss_and_gradient(logits, target, weight, 2.0, alpha), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_background_has_weight_1():
    logits, _ = inputs()
    background = torch.full((len(logits),), CLASSES)
    weighted = loss_and_gradient(logits, background, torch.full((CLASSES,), 7.0), 2.0, 0.25)
    without = loss_and_gradient(logits, background, torch.zeros(0), 2.0, 0.25)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(weighted, without, strict=True))


@pytest.mark.parametrize('gamma', [0.0, 0.5, 2.0])
def test_extreme_logits(gamma: float):
    logits = torch.tensor([[200.0, -200.0, 30.0, -30.0]]).repeat(5, 1)
    loss, gradient = loss_and_gradient(logits, torch.arange(5), torch.zeros(0), gamma, 0.25)
    assert loss.isfinite().all() and gradient.isfinite().all()
    assert gradient[1, 1].item() == pytest.approx(-0.25)  # wrong for certain: the factor of the loss
    assert loss[1, 1].item() == pytest.approx(0.25 * 200)


@pytest.mark.gpu
@pytest.mark.parametrize('weighted', [True, False])
@pytest.mark.parametrize('gamma, alpha', [(2.0, 0.25), (1.5, 0.75)])
def test_as_compiled(gamma: float, alpha: float, weighted: bool):
    logits, target = inputs()
    if weighted:
        logits, target = logits[target < CLASSES], target[target < CLASSES]
    weight = torch.rand(CLASSES) if weighted else torch.zeros(0)
    for op in ('sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'):
        tensors = (logits, target, weight, torch.zeros_like(logits))
        assert_same(op, *tensors, device='cuda', gamma=gamma, alpha=alpha)
