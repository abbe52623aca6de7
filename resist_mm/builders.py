"""Builds codecs from configs: those of this package, and any others that are registered."""

from __future__ import annotations

from typing import Any

from mmengine.registry import Registry

from .exchange.changes import Changes
from .exchange.codec import BF16, Codec, Quantize, TopK
from .registry import CODECS

__all__ = ['build_codec', 'build_from']

CODECS.register_module('bf16', module=BF16)
CODECS.register_module('quantize', module=Quantize)
CODECS.register_module('topk', module=TopK)
CODECS.register_module('changes', module=Changes)


def build_codec(cfg: dict | Codec | None) -> Codec | None:
    """Build a codec from a config such as ``dict(type='quantize', bits=6)``.

    Register your own with ``@resist_mm.registry.CODECS.register_module()``.

    Raises:
        ValueError: If the type is not known or an argument is out of range.
        TypeError: If an argument is not known.
    """
    return cfg if cfg is None or isinstance(cfg, Codec) else build_from(CODECS, 'codec', cfg)


def build_from(registry: Registry, key: str, cfg: Any) -> Any:
    """Build a config's object from a registry; ``key`` is the config's key, for errors."""
    arguments: dict[str, Any] = dict(cfg) if isinstance(cfg, dict) else {}
    name = arguments.pop('type', None)
    # mmengine imports a name with dots, and fails in its own way at one that begins with a dot or is empty
    built = registry.get(name) if isinstance(name, str) and name.strip('.') == name != '' else None
    if built is None:
        known = list(registry.module_dict)
        raise ValueError(
            f'{key} must be dict(type=...) with one of {known}, or a type that you have registered in a module '
            f'listed in custom_imports; got {cfg!r}'
        )
    try:
        return built(**arguments)
    except TypeError as error:  # an argument that does not exist, mostly
        raise TypeError(f'{key}=dict(type={name!r}): {error}') from error
