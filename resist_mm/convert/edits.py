"""Single changes of a config, in place; each returns sentences that say what it did."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

from mmengine.config import Config
from torch import nn

from ..launch import ROUND_HOOKS
from .chains import BACKBONE

__all__ = [
    'add_hook',
    'add_import',
    'check_has_no_protocol',
    'check_has_no_teacher',
    'draw_own_random_numbers',
    'hints',
    'remove_sync_bn',
    'set_wrapper',
    'stages_of',
    'wrap_model',
]

SYNC_BN = ('SyncBN', 'SyncBatchNorm', 'MMSyncBN', 'NaiveSyncBN', 'naiveSyncBN1d', 'naiveSyncBN2d', 'naiveSyncBN3d')
ONLY_SYNC_BN_HAS = ('process_group', 'group', 'stats_mode')
WRAPPER = 'resist_mm.Partitioned'


def check_has_no_protocol(cfg: Config) -> None:
    """Reject a config that trains in rounds already.

    Raises:
        ValueError: With the hook.
    """
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and ('local_iters' in hook or _name(hook.get('type')) in ROUND_HOOKS):
            raise ValueError(
                f'custom_hooks.{i} of {cfg.filename or "the config"} is a {_name(hook.get("type"))}: the config '
                'has a protocol already. Train it as it is, or convert the config that it was made from'
            )


def check_has_no_teacher(cfg: Config) -> None:
    """Reject a config that averages the weights of a student into those of a teacher in each iteration.

    Raises:
        ValueError: With the hook.
    """
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and _name(hook.get('type')) == 'MeanTeacherHook':
            raise ValueError(
                f'custom_hooks.{i} is a MeanTeacherHook, which needs all weights of the student in each '
                'iteration, but with ResIST a worker does not hold them all: --local-sgd trains this config'
            )


def wrap_model(cfg: Config, stages: Sequence[str]) -> list[str]:
    """Have the stages partitioned when the model is built: the backbone's if all lie there."""
    if all(path.startswith(BACKBONE) for path in stages) and isinstance(cfg.model.get('backbone'), dict):
        old, key, stages = cfg.model.backbone, 'model.backbone', [path.removeprefix(BACKBONE) for path in stages]
    else:
        old, key, stages = cfg.model, 'model', list(stages)
    inner = old.pop('type')
    if {'model', 'stages'} & set(old):  # its own arguments; they keep to themselves
        arguments = dict(old)
        old.clear()
        old.update(model=dict(type=inner, **arguments))
    else:
        old.model = inner
    old.update(type=WRAPPER, stages=stages)
    return [f"{key}: type={_name(inner)!r} became type='{WRAPPER}', stages={stages}; its arguments stay"]


def stages_of(cfg: Config) -> list[str]:
    """The paths, in the whole model, of the stages that :func:`wrap_model` has put in a config; empty: none."""
    for node, prefix in ((cfg.model, ''), (cfg.model.get('backbone') or {}, BACKBONE)):
        if node.get('type') == WRAPPER:
            return [f'{prefix}{path}' for path in node['stages']]
    return []


def set_wrapper(cfg: Config, wrapper: dict) -> list[str]:
    """Set ``model_wrapper_cfg``."""
    old = cfg.get('model_wrapper_cfg')
    cfg.model_wrapper_cfg = wrapper
    return [f'model_wrapper_cfg: {wrapper}' + (f' in place of {dict(old)}' if old else '')]


def add_hook(cfg: Config, hook: dict) -> list[str]:
    """Append a hook; those of the config stay, but for the one that averages buffers after each epoch."""
    kept: list[Any] = []
    dropped: list[Any] = []
    for old in cfg.get('custom_hooks') or []:
        (dropped if isinstance(old, dict) and _name(old.get('type')) == 'SyncBuffersHook' else kept).append(old)
    cfg.custom_hooks = [*kept, hook]
    arguments = ', '.join(f'{key}={value!r}' for key, value in hook.items() if key != 'type')
    changes = [f'custom_hooks: added {hook["type"]} ({arguments})']
    if kept:
        changes[0] += f' behind {", ".join(_name(old.get("type")) for old in kept)}'
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


def remove_sync_bn(cfg: Config, model: nn.Module) -> list[str]:
    """Replace norms that communicate in each iteration.

    Args:
        cfg (Config): Is changed.
        model (nn.Module): What it builds, for arguments of which the default is to communicate.
    """
    changes = []
    replaced = []
    for key, node in _nodes(cfg._cfg_dict, ''):
        if _name(node.get('type')) in SYNC_BN:
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


def _name(kind: Any) -> str:
    """The name of a type that is a class or a string, without its scope."""
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]
