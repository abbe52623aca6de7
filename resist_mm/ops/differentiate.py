"""What the ops with a backward share: the precision they compute in, and their gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ['gradients', 'wide']


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 if it is of a 16-bit type, which not all of torchvision's ops take; else itself."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def gradients(
    function: Callable[..., Tensor],
    inputs: Sequence[Tensor],
    grad_output: Tensor,
    wanted: Sequence[int] | None = None,
) -> list[Tensor]:
    """Gradients of ``function(*inputs)`` with regard to its inputs.

    The function is computed again: mmcv's backward functions get the inputs only, no graph. That costs a forward,
    and needs nothing of torchvision but its public functions.

    Args:
        function: Differentiable.
        inputs: Of floating-point types.
        grad_output: Of the shape of the function's result.
        wanted: Which inputs to differentiate by; all if not given.

    Returns:
        In the order of the inputs, those that are wanted.
    """
    wanted = range(len(inputs)) if wanted is None else wanted
    with torch.enable_grad(), torch.autocast(grad_output.device.type, enabled=False):
        leaves = [wide(tensor.detach()).requires_grad_(index in wanted) for index, tensor in enumerate(inputs)]
        output = function(*leaves)
        return list(torch.autograd.grad(output, [leaves[index] for index in wanted], grad_output.to(output.dtype)))
