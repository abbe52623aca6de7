"""When it happens: rounds, driven by mmengine's Runner."""

from . import hooks

__all__ = ['hooks']
