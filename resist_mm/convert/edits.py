"""Single changes of a config, in place; each returns sentences that say what it did."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from torch import nn

from ..config_hooks import custom_hooks, hook_name, is_round_hook, type_name
from .chains import BACKBONE

__all__ = [
    'add_hook',
    'add_import',
    'check_has_no_protocol',
    'check_has_no_teacher',
    'data_parallel_wrapper',
    'draw_own_random_numbers',
    'hints',
    'remove_sync_bn',
    'set_wrapper',
    'stages_of',
    'use_safe_checkpoints',
    'wrap_model',
]

SYNC_BN = ('SyncBN', 'SyncBatchNorm', 'MMSyncBN', 'NaiveSyncBN', 'naiveSyncBN1d', 'naiveSyncBN2d', 'naiveSyncBN3d')
ONLY_SYNC_BN_HAS = ('process_group', 'group', 'stats_mode')
WRAPPER = 'resist_mm.Partitioned'
DDP = 'MMDistributedDataParallel'
SAFE_CHECKPOINTS = 'resist_mm.SafeCheckpointHook'


def check_has_no_protocol(cfg: Config) -> None:
    """Reject a config that trains in rounds already.

    Raises:
        ValueError: With the hook.
    """
    for i, hook in enumerate(custom_hooks(cfg)):
        if is_round_hook(hook):
            raise ValueError(
                f'custom_hooks.{i} of {cfg.filename or "the config"} is a {hook_name(hook)}: the config '
                'has a protocol already. Train it as it is, or convert the config that it was made from'
            )


def check_has_no_teacher(cfg: Config) -> None:
    """Reject a config that averages the weights of a student into those of a teacher in each iteration.

    Raises:
        ValueError: With the hook.
    """
    for i, hook in enumerate(custom_hooks(cfg)):
        if hook_name(hook) == 'MeanTeacherHook':
            raise ValueError(
                f'custom_hooks.{i} is a MeanTeacherHook, which needs all weights of the student in each '
                'iteration, but with ResIST a worker does not hold them all: --local-sgd accepts this config'
            )


def wrap_model(cfg: Config, stages: Sequence[str]) -> list[str]:
    """Have the stages partitioned when the model is built: the backbone's if all lie there."""
    if all(path.startswith(BACKBONE) for path in stages) and isinstance(cfg.model.get('backbone'), dict):
        old, key, stages = cfg.model.backbone, 'model.backbone', [path.removeprefix(BACKBONE) for path in stages]
    else:
        old, key, stages = cfg.model, 'model', list(stages)
    inner = old.pop('type')
    written = inner if isinstance(inner, str) else f'{inner.__module__}.{inner.__qualname__}'  # can be read again
    if {'model', 'stages'} & set(old):  # its own arguments; they keep to themselves
        arguments = dict(dict.items(old))  # classes stay names
        old.clear()
        old.update(model=dict(type=written, **arguments))
    else:
        old.model = written
    old.update(type=WRAPPER, stages=stages)
    return [f"{key}: type={type_name(inner)!r} became type='{WRAPPER}', stages={stages}; its arguments stay"]


def stages_of(cfg: Config | dict[str, Any]) -> list[str]:
    """The paths, in the whole model, of the stages that :func:`wrap_model` has put in a config; empty: none."""
    model = cfg.get('model')
    backbone = model.get('backbone') if isinstance(model, dict) else None
    for node, prefix in ((model, ''), (backbone, BACKBONE)):
        if isinstance(node, dict) and node.get('type') == WRAPPER:
            stages = node.get('stages') or []
            return [f'{prefix}{path}' for path in ([stages] if isinstance(stages, str) else stages)]
    return []


def data_parallel_wrapper(cfg: Config) -> dict[str, Any]:
    """The wrapper for data-parallel training; a config's own options of it are kept.

    Raises:
        ValueError: If the config has a wrapper of another kind.
    """
    # device_ids=None: mmengine's default, one GPU per worker, fails on a CPU and if workers share a GPU
    wrapper: dict[str, Any] = dict(type=DDP, device_ids=None, broadcast_buffers=False)
    if cfg.get('find_unused_parameters'):  # mmengine reads it only where there is no model_wrapper_cfg
        wrapper['find_unused_parameters'] = True
    old = cfg.get('model_wrapper_cfg') or {}
    kind = type_name(old.get('type'))
    if old and kind not in (DDP, 'LocalModel'):
        raise ValueError(
            f'model_wrapper_cfg has type {kind!r}, which --ddp (to_ddp) does not replace: train the config as it '
            f'is, or set model_wrapper_cfg.type={DDP}'
        )
    options = {key: value for key, value in old.items() if key != 'type'} if kind == DDP else {}
    return {**wrapper, **options}


def set_wrapper(cfg: Config, wrapper: dict) -> list[str]:
    """Set ``model_wrapper_cfg``."""
    old = cfg.get('model_wrapper_cfg')
    cfg.model_wrapper_cfg = wrapper
    return [f'model_wrapper_cfg: {wrapper}' + (f' in place of {dict(old)}' if old else '')]


def add_hook(cfg: Config, hook: dict) -> list[str]:
    """Append a hook; those of the config stay, but for the one that averages buffers after each epoch."""
    kept: list[Any] = []
    dropped: list[Any] = []
    for old in custom_hooks(cfg):
        (dropped if hook_name(old) == 'SyncBuffersHook' else kept).append(old)
    cfg.custom_hooks = [*kept, hook]
    arguments = ', '.join(f'{key}={value!r}' for key, value in hook.items() if key != 'type')
    changes = [f'custom_hooks: added {hook["type"]} ({arguments})']
    if kept:
        changes[0] += f' after {", ".join(hook_name(old) for old in kept)}'
    if dropped:
        changes.append('custom_hooks: removed SyncBuffersHook, because the exchange makes buffers agree')
    return changes


def add_import(cfg: Config) -> list[str]:
    """Have this package imported when the config is read."""
    old = cfg.get('custom_imports') or {}
    imports = old.get('imports') or []
    imports = [imports] if isinstance(imports, str) else list(imports)
    if 'resist_mm' in imports:
        return []
    cfg.custom_imports = {'allow_failed_imports': False, **old, 'imports': [*imports, 'resist_mm']}
    return ["custom_imports: added 'resist_mm'"]


def use_safe_checkpoints(cfg: Config) -> list[str]:
    """Replace mmengine's CheckpointHook and keep its arguments; any other hook in its place stays."""
    if 'default_hooks' not in cfg:
        cfg.default_hooks = {}
    if 'checkpoint' not in cfg.default_hooks:
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook')  # mmengine's default
    hooks = {'default_hooks.checkpoint': cfg.default_hooks.checkpoint}
    hooks.update((f'custom_hooks.{i}', hook) for i, hook in enumerate(custom_hooks(cfg)))
    changes = []
    for key, hook in hooks.items():
        if isinstance(hook, dict) and hook_name(hook) == 'CheckpointHook':
            hook['type'] = SAFE_CHECKPOINTS
            changes.append(f"{key}: type='{SAFE_CHECKPOINTS}' in place of CheckpointHook; its arguments stay")
    return changes


def remove_sync_bn(cfg: Config, model: nn.Module) -> list[str]:
    """Replace norms that communicate in each iteration.

    Args:
        cfg (Config): Is changed.
        model (nn.Module): What it builds, for arguments of which the default is to communicate.
    """
    changes = []
    replaced = []
    for key, node in _nodes(cfg._cfg_dict, ''):
        if type_name(node.get('type')) in SYNC_BN:
            node['type'] = 'BN'
            for argument in ONLY_SYNC_BN_HAS:
                node.pop(argument, None)
            replaced.append(key)
        if node.get('use_syncbn'):
            node['use_syncbn'] = False
            changes.append(f'{key}.use_syncbn: True became False')
    if replaced:
        changes.insert(0, f'SyncBN became BN: {", ".join(replaced)}')
    parameter = inspect.signature(type(model).__init__).parameters.get('use_syncbn')
    if parameter is not None and parameter.default and 'use_syncbn' not in cfg.model:
        cfg.model.use_syncbn = False
        changes.append(f'model.use_syncbn: False (the default of {type(model).__name__} is True)')
    if cfg.pop('sync_bn', None):
        changes.append('sync_bn: removed')
    return changes


def draw_own_random_numbers(cfg: Config) -> list[str]:
    """Let workers draw different random numbers in the training process too (dropout, sampled boxes)."""
    randomness = cfg.get('randomness') or {}
    if randomness.get('seed') is not None or 'diff_rank_seed' in randomness:
        return []
    cfg.randomness = {'seed': None, **randomness, 'diff_rank_seed': True}
    return ['randomness: diff_rank_seed=True, so that workers draw different random numbers']


def hints(cfg: Config, model: nn.Module) -> list[str]:
    """What the user may want to change."""
    said = []
    backbone = getattr(model, 'backbone', None)
    pretrained = cfg.get('load_from') or _has_weights(cfg.model)
    if getattr(backbone, 'norm_eval', False) and not pretrained:
        said.append(
            'hint: the backbone starts from scratch, but norm_eval=True freezes its BatchNorm statistics; '
            '--cfg-options model.backbone.norm_eval=False'
        )
    return said


def _has_weights(node: Any) -> bool:
    return any(
        inner.get('type') == 'Pretrained' or isinstance(inner.get('pretrained'), str)
        for _, inner in _nodes(node, '')
    )


def _nodes(node: Any, key: str) -> Iterator[tuple[str, dict]]:
    """All dicts of a config, with their keys."""
    if isinstance(node, dict):
        yield key, node
        for name, child in list(node.items()):
            yield from _nodes(child, f'{key}.{name}' if key else str(name))
    elif isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _nodes(child, f'{key}.{i}')
