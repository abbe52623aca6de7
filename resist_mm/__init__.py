"""ResIST for the OpenMMLab stack: residual networks trained as shallow sub-ResNets.

Dun, Wolfe, Jermaine, Kyrillidis, "ResIST: Layer-Wise Decomposition of ResNets
for Distributed Training", UAI 2022, arXiv:2107.00961.

Importing the package imports nothing else: subpackages are loaded when they are first used,
and a registry imports its modules when something is first looked up in it.
"""

from importlib import import_module
from typing import Any

from .version import __version__

__all__ = ['__version__', 'to_ddp', 'to_local_sgd', 'to_resist']

_PARTS = (
    'analysis',
    'convert',
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


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f'{__name__}.{name}')
    if name in __all__:
        return getattr(import_module(f'{__name__}.convert'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
