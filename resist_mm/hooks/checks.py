"""What a run has to satisfy before it trains in rounds."""

from __future__ import annotations

from mmengine.dist import get_world_size
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn

from resist_mm.models import partitioned_stages
from resist_mm.models.wrappers import LocalModel

__all__ = ['check_can_recalibrate', 'check_has_blocks', 'check_runner']


def check_runner(runner: Runner, hook_name: str) -> None:
    """Refuse what cannot work together with rounds of local training.

    Raises:
        ValueError: If the model is wrapped for gradient exchange, has SyncBN, an
            optimizer makes its state in advance, or there are two protocols. The
            message says which line of the config to change.
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
                    'remove sync_bn; RTMDet needs model.use_syncbn = False, too'
                )
    protocols = [type(hook).__name__ for hook in runner.hooks if hasattr(hook, 'local_iters')]
    if len(protocols) > 1:
        raise ValueError(
            f'custom_hooks has {" and ".join(protocols)}, but a run has one protocol: remove all but one'
        )
    _check_optimizers(runner, hook_name)


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


def check_has_blocks(model: nn.Module, hook_name: str) -> None:
    """Refuse a model without blocks to deal out.

    Raises:
        ValueError: If it has no partitioned stage.
    """
    if not partitioned_stages(model):
        raise ValueError(
            f'{hook_name} deals out the blocks of a partitioned stage, but the model has none: use '
            "type='resist_mm.PartitionableResNet' or 'resist_mm.PreActResNet' for model.backbone"
        )
