"""Focal loss of a sigmoid (Lin et al., ICCV 2017, arXiv:1708.02002)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from .differentiate import wide

__all__ = ['sigmoid_focal_loss_backward', 'sigmoid_focal_loss_forward']


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the loss of every sample and class.

    For logits beyond about 16 mmcv's kernel rounds 1 - p to zero and gives a loss of 87; here it is exact. The
    gradients are the same.

    Args:
        input: Logits, shape (N, number of classes).
        target: Class of each sample, int64, shape (N,); the number of classes: background.
        weight: Factor of a sample by its class, shape (number of classes,), or empty. Background is weighted by 1:
            mmcv's kernel reads past the end there.
        output: Output, shape (N, number of classes).
        gamma: How much less well-classified samples count.
        alpha: Share of the positive class.
    """
    logits, positive = wide(input), _one_hot(target, input)
    # torchvision leaves a negative alpha out, mmcv does not: it is applied here
    loss = sigmoid_focal_loss(logits, positive.to(logits.dtype), alpha=-1, gamma=gamma)
    output.copy_(loss * _factor(positive, target, weight, alpha, logits.dtype))


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Writes the gradient of each loss by its logit; see :func:`sigmoid_focal_loss_forward`.

    In closed form, where autograd gives NaN for gamma below 1 and a probability that rounds to 1.
    """
    logits, positive = wide(input), _one_hot(target, input)
    sign = torch.where(positive, 1.0, -1.0).to(logits.dtype)
    # of the right answer: d/dx (-(1 - p)^gamma log p) = (1 - p)^gamma (gamma p log p - (1 - p)), as p' = p (1 - p)
    right, wrong = torch.sigmoid(sign * logits), torch.sigmoid(-sign * logits)
    gradient = sign * wrong.pow(gamma) * (gamma * right * F.logsigmoid(sign * logits) - wrong)
    grad_input.copy_(gradient * _factor(positive, target, weight, alpha, logits.dtype))


def _one_hot(target: Tensor, input: Tensor) -> Tensor:
    return target[:, None] == torch.arange(input.shape[1], device=target.device)


def _factor(positive: Tensor, target: Tensor, weight: Tensor, alpha: float, dtype: torch.dtype) -> Tensor:
    factor = positive.to(dtype) * (2 * alpha - 1) + (1 - alpha)  # alpha, or 1 - alpha
    if weight.numel() == 0:
        return factor
    with_background = torch.cat([weight, weight.new_ones(1)]).to(dtype)
    return factor * with_background[target][:, None]
