"""Builds protocols from configs: those of this package, and any others that are registered."""

from __future__ import annotations

from resist_mm.builders import build_from
from resist_mm.registry import PROTOCOLS
from resist_mm.rounds import LocalSGD, ResIST, RoundProtocol

__all__ = ['build_protocol']

PROTOCOLS.register_module(module=ResIST)
PROTOCOLS.register_module(module=LocalSGD)


def build_protocol(cfg: dict | RoundProtocol) -> RoundProtocol:
    """Build a protocol from a config such as ``dict(type='ResIST', min_blocks=5)``.

    Register your own with ``@resist_mm.registry.PROTOCOLS.register_module()``.

    Raises:
        ValueError: If the type is not known or an argument is out of range.
        TypeError: If an argument is not known.
    """
    return cfg if isinstance(cfg, RoundProtocol) else build_from(PROTOCOLS, 'protocol', cfg)
