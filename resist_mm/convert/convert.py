"""From any config to one that trains by ResIST, by local SGD or data-parallel."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict
from torch import nn

from resist_mm.models.partition import partition, partitioned_stages
from resist_mm.registry import HOOKS

from .asked import partition_as_asked
from .build import build_to_look_at
from .choice import check_is_no_local_sgd, choose_chains, choose_min_blocks, hands_in_words
from .edits import (
    add_hook,
    add_import,
    check_has_no_protocol,
    check_has_no_teacher,
    data_parallel_wrapper,
    draw_own_random_numbers,
    hints,
    remove_sync_bn,
    set_wrapper,
    use_safe_checkpoints,
    wrap_model,
)
from .read import read_config
from .references import resolve_references

__all__ = ['Converted', 'hook_options', 'to_ddp', 'to_local_sgd', 'to_resist']

RESIST_HOOK = 'resist_mm.ResISTHook'
LOCAL_SGD_HOOK = 'resist_mm.LocalSGDHook'
LOCAL_ITERS = 50
# of torch.distributed's launchers, Slurm and Open MPI
WORLD_SIZES = ('WORLD_SIZE', 'SLURM_NTASKS', 'OMPI_COMM_WORLD_SIZE')


class Converted(NamedTuple):
    """A converted config.

    Attributes:
        cfg: The whole config: it trains, resumes, tests and runs inference without being converted again.
        changes: What was changed and why, a sentence each.
    """

    cfg: Config
    changes: list[str]


def to_resist(
    cfg: Config | str | Path,
    workers: int | None = None,
    stages: str | Sequence[str] | None = None,
    local_iters: int = LOCAL_ITERS,
    min_blocks: int | None = None,
    **options: Any,
) -> Converted:
    """Turn a config into one that trains by ResIST.

    The model is built without its weights to find its chains of residual blocks.

    Args:
        cfg (Config, str or Path): A config, which stays as it is, or its file, also ``mmdet::FILE``.
        workers (int, optional): Number of workers that the stages are chosen for; the result runs with
            others too. Defaults to None: what the launcher says in the environment.
        stages (str or Sequence[str], optional): The chains to partition, as paths in the model such as
            ``'backbone.layer3'``. Defaults to None: ``layer3`` of a ResNet, else the backbone's chain with the
            most blocks; and further ones until there are two blocks for each worker.
        local_iters (int): Iterations of a round. Defaults to 50.
        min_blocks (int, optional): Least number of partitioned blocks of a worker. Defaults to None: 5, but not
            more than a quarter of the blocks.
        **options: Other arguments of :class:`resist_mm.hooks.ResISTHook`.

    Returns:
        Converted: The new config, and what was changed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the model has no chain of residual blocks, a stage cannot be partitioned, an option is not
            known, the config has a protocol already, or every worker would hold every block.

    Example:
        >>> from resist_mm import to_resist
        >>> cfg, changes = to_resist('mmdet::retinanet/retinanet_r101_fpn_1x_coco.py', workers=4)
        >>> cfg.model.backbone.stages
        ['layer3']
    """
    cfg = _copy(cfg)
    options = dict(local_iters=local_iters, min_blocks=min_blocks, **options)
    check_has_no_protocol(cfg)
    check_has_no_teacher(cfg)
    _check_options(RESIST_HOOK, options, '--resist (to_resist)', ('stages',))
    workers = _workers() if workers is None else workers
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 2:
        raise ValueError(f'ResIST needs at least 2 workers, got {workers!r}')
    model = build_to_look_at(cfg)
    changes = _partition(cfg, model, workers, stages)
    num_blocks = sum(stage.num_partitioned for stage in partitioned_stages(model).values())
    if min_blocks is None:
        options['min_blocks'] = choose_min_blocks(num_blocks)
    hands = check_is_no_local_sgd(num_blocks, workers, options['min_blocks'])
    held = hands_in_words(hands)
    changes.append(f'min_blocks: {options["min_blocks"]}; {workers} workers hold {held} of {num_blocks} blocks')
    return Converted(cfg, changes + _train_in_rounds(cfg, model, RESIST_HOOK, options))


def to_local_sgd(cfg: Config | str | Path, local_iters: int = LOCAL_ITERS, **options: Any) -> Converted:
    """Turn a config into one that trains by local SGD, ResIST's baseline.

    Args:
        cfg (Config, str or Path): A config, which stays as it is, or its file, also ``mmdet::FILE``.
        local_iters (int): Iterations of a round. Defaults to 50.
        **options: Other arguments of :class:`resist_mm.hooks.LocalSGDHook`.

    Returns:
        Converted: The new config, and what was changed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If an option is not known or the config has a protocol already.
    """
    cfg = _copy(cfg)
    options = dict(local_iters=local_iters, **options)
    check_has_no_protocol(cfg)
    _check_options(LOCAL_SGD_HOOK, options, '--local-sgd (to_local_sgd)')
    return Converted(cfg, _train_in_rounds(cfg, build_to_look_at(cfg), LOCAL_SGD_HOOK, options))


def to_ddp(cfg: Config | str | Path, sync_bn: bool = True) -> Converted:
    """Turn a config into one that trains data-parallel, on GPUs or CPUs.

    Args:
        cfg (Config, str or Path): A config, which stays as it is, or its file, also ``mmdet::FILE``.
        sync_bn (bool): Whether SyncBN stays; else it becomes BN, as by ``tools/train.py --ddp`` on a machine
            without a GPU, which SyncBN needs. Defaults to True.

    Returns:
        Converted: The new config, and what was changed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the config trains in rounds, or has a model wrapper of another kind.
    """
    cfg = _copy(cfg)
    check_has_no_protocol(cfg)
    changes = set_wrapper(cfg, data_parallel_wrapper(cfg)) + use_safe_checkpoints(cfg) + add_import(cfg)
    if not sync_bn:
        changes += [f'{change} (SyncBN needs GPUs)' for change in remove_sync_bn(cfg, build_to_look_at(cfg))]
    return Converted(cfg, changes)


def hook_options(hook: str) -> list[str]:
    """The arguments of a hook, those of its base classes included."""
    cls = HOOKS.get(hook)
    assert isinstance(cls, type)
    names: dict[str, None] = {}
    for base in cls.__mro__:
        if '__init__' in vars(base):
            for name, parameter in inspect.signature(base.__init__).parameters.items():  # type: ignore[misc]
                if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
                    names[name] = None
    return [name for name in names if name not in ('self', 'protocol')]


def _copy(cfg: Config | str | Path) -> Config:
    if isinstance(cfg, Config):
        cfg = copy.deepcopy(cfg)
        resolve_references(cfg)
        return cfg
    if not isinstance(cfg, str | Path):
        raise TypeError(f'cfg must be a mmengine Config or the path of one, got a {type(cfg).__name__}')
    return read_config(cfg)


def _check_options(hook: str, options: dict[str, Any], function: str, others: Sequence[str] = ()) -> None:
    known = [*others, *hook_options(hook)]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise ValueError(f'{function} has no option {unknown[0]!r}; there are {", ".join(known)}')
    try:
        HOOKS.build(dict(type=hook, **options))  # says what is wrong with a value
    except TypeError as error:
        raise ValueError(f'{function}: {error}') from None


def _workers() -> int:
    for name in WORLD_SIZES:
        if os.environ.get(name, '').isdigit():
            return int(os.environ[name])
    raise ValueError(
        'for how many workers? Start with a launcher (tools/dist_train.sh CONFIG WORKERS --resist), or name their '
        'number: to_resist(cfg, workers=4)'
    )


def _partition(cfg: Config, model: nn.Module, workers: int, stages: str | Sequence[str] | None) -> list[str]:
    """Partition the model and its config."""
    there = list(partitioned_stages(model))
    if there:
        if stages is not None:
            raise ValueError(
                f'stages={stages!r}: the model partitions {there} by itself; leave stages out, or set the '
                'partition_stages of its backbone by --cfg-options'
            )
        return [f'stages: {", ".join(there)}, which the model partitions by itself']
    if stages is None:
        chains, reasons = choose_chains(model, workers)
        paths, changes = [chain.path for chain in chains], list(reasons)
        partition(model, paths)
    else:
        paths = [stages] if isinstance(stages, str) else _paths(stages)
        changes = [f'stages: {", ".join(paths)}, as given', *partition_as_asked(model, paths)]
    return changes + wrap_model(cfg, paths)


def _paths(stages: Any) -> list[str]:
    paths = list(stages) if isinstance(stages, list | tuple) else [stages]
    if not all(isinstance(path, str) for path in paths):
        raise ValueError(f'stages must be a path such as "backbone.layer3", or several of them, got {stages!r}')
    return paths


def _train_in_rounds(cfg: Config, model: nn.Module, hook: str, options: dict[str, Any]) -> list[str]:
    return [
        *add_hook(cfg, ConfigDict(type=hook, **options)),
        *set_wrapper(cfg, dict(type='resist_mm.LocalModel')),
        *use_safe_checkpoints(cfg),
        *add_import(cfg),
        *remove_sync_bn(cfg, model),
        *draw_own_random_numbers(cfg),
        *hints(cfg, model),
    ]
