"""What rounds need of a Runner."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.optim import Optimizer

from resist_mm.models.wrappers import not_distributed

__all__ = ['model_of', 'optimizers_of', 'run_on_batch']


def model_of(runner: Runner) -> nn.Module:
    """The model that is trained, not its wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


def optimizers_of(runner: Runner) -> list[Optimizer]:
    """All optimizers that train it."""
    wrapper = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [wrapper.optimizer for wrapper in wrappers]


def run_on_batch(runner: Runner, batch: Any) -> None:
    """Run the model on a training batch as ``BaseModel.train_step`` does, in the precision of training."""
    model: Any = model_of(runner)
    wrapper = runner.optim_wrapper
    precision = nullcontext() if isinstance(wrapper, OptimWrapperDict) else wrapper.optim_context(runner.model)
    with not_distributed(), precision:
        data = model.data_preprocessor(batch, True)
        model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
