"""Checks that a run is able to train in rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mmengine.dist import get_world_size
from mmengine.model import BaseModel, is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import IterableDataset

from resist_mm.models import partitioned_stages
from resist_mm.models.wrappers import LocalModel
from resist_mm.rounds.batch_norm import without_traces

__all__ = ['check_can_recalibrate', 'check_generic_blocks', 'check_has_blocks', 'check_runner']


def check_runner(runner: Runner, hook_name: str) -> None:
    """Reject settings that are incompatible with rounds of local training.

    Raises:
        ValueError: If the model is wrapped for gradient exchange or has SyncBN, an
            optimizer creates its state before the first step, or there are two
            protocols. The message says which line of the config to change.
    """
    if is_model_wrapper(runner.model) and not isinstance(runner.model, LocalModel):
        raise ValueError(
            f'with {hook_name} every worker trains independently, but the model is wrapped in '
            f'{type(runner.model).__name__}, which exchanges gradients in each iteration. Put '
            "model_wrapper_cfg = dict(type='resist_mm.LocalModel') in the config"
        )
    if get_world_size() > 1:
        for name, module in runner.model.named_modules():
            if any(cls.__name__ == 'SyncBatchNorm' for cls in type(module).__mro__):
                raise ValueError(
                    f'{name} is a SyncBN layer: the workers would communicate in each iteration, but with '
                    f"{hook_name} they train different networks. Put norm_cfg = dict(type='BN') in the config "
                    'and remove sync_bn; RTMDet needs model.use_syncbn = False, too'
                )
    protocols = [type(hook).__name__ for hook in runner.hooks if hasattr(hook, 'local_iters')]
    if len(protocols) > 1:
        raise ValueError(
            f'custom_hooks has {" and ".join(protocols)}, but a run can have only one protocol: keep one of them'
        )
    _check_optimizers(runner, hook_name)


def _check_optimizers(runner: Runner, hook_name: str) -> None:
    wrapper = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for optimizer in (wrapper.optimizer for wrapper in wrappers):
        if optimizer.state and runner.iter == 0:
            raise ValueError(
                f'{type(optimizer).__name__} creates its state before the first step, and {hook_name} would clear '
                'it: choose an optimizer that creates it in the first step, such as SGD, Adam or AdamW'
            )


def check_can_recalibrate(model: nn.Module, hook_name: str) -> None:
    """Reject ``bn='recalibrate'`` for a model that cannot run on a batch without its ``train_step``.

    Raises:
        ValueError: If the model has a custom train_step or no data preprocessor.
    """
    own_step = getattr(type(model), 'train_step', None) is not BaseModel.train_step
    if own_step or not hasattr(model, 'data_preprocessor'):
        raise ValueError(
            f"{hook_name}.bn='recalibrate' runs training batches through the model as BaseModel.train_step does, "
            f"but {type(model).__name__} has a custom train_step or no data_preprocessor: set bn='average'"
        )


def check_generic_blocks(runner: Runner, model: nn.Module, forward: Callable[[Any], object]) -> None:
    """Say which partitioned blocks no adapter knows, and try on two samples whether they can be dropped.

    Args:
        runner (Runner): Of the run.
        model (nn.Module): The whole model, not its wrapper.
        forward (Callable): Runs it on a training batch.

    Raises:
        ValueError: If such a block does not keep the shape of its input.
    """
    gates = [gate for stage in partitioned_stages(model).values() for gate in stage.gates if gate.generic]
    loader = runner.train_dataloader
    if not gates or isinstance(loader.dataset, IterableDataset):
        return
    kinds = sorted({type(gate.block).__name__ for gate in gates})
    runner.logger.info(
        f'{", ".join(kinds)}: no adapter knows where residual branches end, so with the scale s a whole block, '
        f'such as {gates[0].name}, counts as x + s (block(x) - x)'
    )
    with without_traces(model):
        forward(loader.collate_fn([loader.dataset[i % len(loader.dataset)] for i in range(2)]))


def check_has_blocks(model: nn.Module, hook_name: str) -> None:
    """Reject a model without blocks to deal out.

    Raises:
        ValueError: If it has no partitioned stage.
    """
    if not partitioned_stages(model):
        raise ValueError(
            f'{hook_name} deals out the blocks of a partitioned stage, but the model has none: use '
            "type='resist_mm.PartitionableResNet' or 'resist_mm.PreActResNet' for model.backbone, or for another "
            "backbone dict(type='resist_mm.Partitioned', model='mmdet.ResNeXt', stages='layer3', ...), or let the "
            'option --resist of tools/train.py and tools/dist_train.sh choose the stages'
        )
