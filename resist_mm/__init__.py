"""ResIST for the OpenMMLab stack: residual networks trained as shallow sub-ResNets.

Dun, Wolfe, Jermaine, Kyrillidis, "ResIST: Layer-Wise Decomposition of ResNets
for Distributed Training", UAI 2022, arXiv:2107.00961.

Importing the package imports nothing else: subpackages are loaded when they are first used,
and a registry imports its modules when something is first looked up in it.
"""

from importlib import import_module
from types import ModuleType

from .version import __version__

__all__ = ['__version__']

_PARTS = (
    'analysis',
    'checkpoint',
    'datasets',
    'evaluation',
    'exchange',
    'hooks',
    'launch',
    'models',
    'partition',
    'registry',
    'rounds',
)


def __getattr__(name: str) -> ModuleType:
    if name in _PARTS:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
