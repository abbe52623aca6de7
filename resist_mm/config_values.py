"""Numbers of a config that are wrong before anything is built from them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from mmengine.config import Config

__all__ = ['check_has_model', 'check_values']

# key of train_cfg: its least value
TRAIN_CFG = dict(max_iters=1, max_epochs=1, val_interval=1, val_begin=0)
LOADER = dict(batch_size=1, num_workers=0)


def check_has_model(cfg: Config) -> None:
    """Check that a config has a model.

    Raises:
        ValueError: If it has none.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise ValueError(f'{cfg.filename or "the config"} has no model, or one that is no dict(type=...)')


def check_values(cfg: Config) -> None:
    """Check numbers whose mistakes mmengine finds late, far away, or never.

    Args:
        cfg (Config): The config of a run.

    Raises:
        ValueError: Naming the key, what it is and what would be right.
    """
    for key, least, value in _counts(cfg):
        if not _is_whole(value) or value < least:
            raise ValueError(f'{key} must be an integer of at least {least}, got {value!r}')
    for key, interval in _intervals(cfg):
        if not _is_whole(interval) or not (interval > 0 or interval == -1):
            raise ValueError(f'{key} must be an integer of at least 1, or -1 for never, got {interval!r}')
    for key, rate in _rates(cfg):
        if not _is_number(rate) or not math.isfinite(rate) or rate < 0:
            raise ValueError(f'{key} must be a finite number of at least 0, got {rate!r}')


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_whole(value: Any) -> bool:
    return _is_number(value) and float(value).is_integer()  # 10.0, too, as results of a division are


def _counts(cfg: Config) -> Iterator[tuple[str, int, Any]]:
    """Keys with the least value of each, and its value."""
    train_cfg = cfg.get('train_cfg') or {}
    for name, least in TRAIN_CFG.items():
        if name in train_cfg:
            yield f'train_cfg.{name}', least, train_cfg[name]
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader')
        for name, least in LOADER.items():
            if isinstance(loader, Mapping) and loader.get(name) is not None:
                yield f'{split}_dataloader.{name}', least, loader[name]


def _intervals(cfg: Config) -> Iterator[tuple[str, Any]]:
    hooks = [(f'default_hooks.{name}', hook) for name, hook in (cfg.get('default_hooks') or {}).items()]
    hooks += [(f'custom_hooks.{i}', hook) for i, hook in enumerate(cfg.get('custom_hooks') or [])]
    for key, hook in hooks:
        if isinstance(hook, Mapping) and 'interval' in hook:
            yield f'{key}.interval', hook['interval']


def _rates(cfg: Config) -> Iterator[tuple[str, Any]]:
    wrapper = cfg.get('optim_wrapper')
    if not isinstance(wrapper, Mapping):
        return
    wrappers = {'optim_wrapper': wrapper} | {
        f'optim_wrapper.{name}': inner for name, inner in wrapper.items() if isinstance(inner, Mapping)
    }
    for key, inner in wrappers.items():
        optimizer = inner.get('optimizer')
        if isinstance(optimizer, Mapping) and 'lr' in optimizer:
            yield f'{key}.optimizer.lr', optimizer['lr']
