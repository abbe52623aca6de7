"""Mixed precision in bf16 on any device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from resist_mm.registry import OPTIM_WRAPPERS

__all__ = ['BF16OptimWrapper']


@OPTIM_WRAPPERS.register_module()
class BF16OptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with the forward pass under bf16 autocast, also on a CPU.

    mmengine's ``AmpOptimWrapper`` refuses to run without an accelerator, though CPUs with ``avx512_bf16`` or AMX
    gain from bf16 too. Parameters, gradients, optimizer state and all exchanges stay fp32. bf16 has the exponents
    of fp32, so losses need no scale.

    Args:
        **kwargs: Arguments of ``OptimWrapper``.

    Example:
        >>> optim_wrapper = dict(type='resist_mm.BF16OptimWrapper', optimizer=dict(type='SGD', lr=0.05))
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast on the device of the parameters.

        Args:
            model (nn.Module): The model, perhaps wrapped.
        """
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield
