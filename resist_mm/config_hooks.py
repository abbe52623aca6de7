"""The hooks of a config, however they are given: as dicts with a name, a path or a class, or as objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

__all__ = ['ROUND_HOOKS', 'custom_hooks', 'hook_name', 'is_round_hook', 'type_name']

ROUND_HOOKS = ('ResISTHook', 'LocalSGDHook', 'RoundHook')


def custom_hooks(cfg: Config | Mapping[str, Any]) -> list[Any]:
    """The ``custom_hooks`` of a config.

    Raises:
        ValueError: If they are no list, as when ``--cfg-options custom_hooks.0.KEY=...`` finds none to change.
    """
    hooks = cfg.get('custom_hooks') or []
    if not isinstance(hooks, list | tuple):
        raise ValueError(
            f'custom_hooks must be a list of hooks, got {hooks!r}. --cfg-options custom_hooks.0.KEY=... changes a '
            'hook that the config has; options of a hook that --resist or --local-sgd adds go behind these'
        )
    return list(hooks)


def is_round_hook(hook: Any) -> bool:
    """Whether a hook trains in rounds: one of this package's, a subclass, or one with ``local_iters``."""
    kind = hook.get('type') if isinstance(hook, Mapping) else type(hook)
    if isinstance(hook, Mapping) and 'local_iters' in hook:
        return True
    names = [cls.__name__ for cls in kind.__mro__] if isinstance(kind, type) else [type_name(kind)]
    return any(name in ROUND_HOOKS for name in names)


def hook_name(hook: Any) -> str:
    """The name of a hook's class."""
    return type_name(hook.get('type') if isinstance(hook, Mapping) else type(hook))


def type_name(kind: Any) -> str:
    """The name of a type that is a class or a string, without its scope."""
    return kind.__name__ if isinstance(kind, type) else str(kind).rpartition('.')[2]
