"""What a run has to satisfy before it trains in rounds."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from resist_mm.models.wrappers import LocalModel

__all__ = ['agree', 'check_can_recalibrate', 'check_runner', 'digest']


def check_runner(runner: Runner, hook_name: str) -> None:
    """Refuse what cannot work together with rounds of local training.

    Raises:
        ValueError: If the model is wrapped for gradient exchange, has SyncBN, a
            moving average of the weights is kept, an optimizer makes its state in
            advance, or there are two protocols. The message says which line of the
            config to change.
    """
    if is_model_wrapper(runner.model) and not isinstance(runner.model, LocalModel):
        raise ValueError(
            f'{hook_name} trains every worker by itself, but the model is wrapped in '
            f'{type(runner.model).__name__}, which exchanges gradients in each iteration. Put '
            "model_wrapper_cfg = dict(type='resist_mm.LocalModel') in the config"
        )
    if get_world_size() > 1:
        for name, module in runner.model.named_modules():
            if any(cls.__name__ == 'SyncBatchNorm' for cls in type(module).__mro__):
                raise ValueError(
                    f'{name} is a SyncBN layer: its workers would talk in each iteration, and {hook_name} '
                    "gives them different networks. Put norm_cfg = dict(type='BN') in the config and "
                    'remove sync_bn'
                )
    protocols = [type(hook).__name__ for hook in runner.hooks if hasattr(hook, 'local_iters')]
    if len(protocols) > 1:
        raise ValueError(
            f'custom_hooks has {" and ".join(protocols)}, but a run has one protocol: remove all but one'
        )
    _check_optimizers(runner, hook_name)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            raise ValueError(
                f'{type(hook).__name__} keeps a moving average of all weights, but with {hook_name} a worker '
                'does not hold all of them. Remove it from custom_hooks'
            )


def _check_optimizers(runner: Runner, hook_name: str) -> None:
    wrapper = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for optimizer in (wrapper.optimizer for wrapper in wrappers):
        if optimizer.state and runner.iter == 0:
            raise ValueError(
                f'{type(optimizer).__name__} makes its state before the first step, and {hook_name} would clear '
                'it: choose an optimizer that makes it when it steps, such as SGD, Adam or AdamW'
            )


def check_can_recalibrate(model: nn.Module, hook_name: str) -> None:
    """Refuse ``bn='recalibrate'`` for a model that cannot be run on a batch by itself.

    Raises:
        ValueError: If the model has no data preprocessor or a train_step of its own.
    """
    own_step = getattr(type(model), 'train_step', None) is not BaseModel.train_step
    if own_step or not hasattr(model, 'data_preprocessor'):
        raise ValueError(
            f"{hook_name}.bn='recalibrate' runs training batches through the model as BaseModel.train_step does, "
            f"but {type(model).__name__} has a train_step of its own or no data_preprocessor: set bn='average'"
        )


def agree(values: dict[str, Any]) -> None:
    """Check that all workers have the same values.

    Args:
        values (dict): What to compare, by a name that a user understands.

    Raises:
        RuntimeError: On all workers, naming the value that differs and what each
            worker has.
    """
    of_workers = all_gather_object(values)
    for name in values:
        found = [of_worker[name] for of_worker in of_workers]
        if any(value != found[0] for value in found):
            listing = ', '.join(f'worker {worker}: {value}' for worker, value in enumerate(found))
            raise RuntimeError(f'the workers disagree on {name} ({listing}): all must have the same')


def digest(model: nn.Module) -> str:
    """A short fingerprint of all parameters and buffers, bit by bit."""
    sha = hashlib.sha256()
    for tensor in [*model.parameters(), *model.buffers()]:
        data = tensor.detach().contiguous().cpu()
        sha.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]
