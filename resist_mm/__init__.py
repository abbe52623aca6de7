"""ResIST for the OpenMMLab stack: residual networks trained as shallow sub-ResNets.

Dun, Wolfe, Jermaine, Kyrillidis, "ResIST: Layer-Wise Decomposition of ResNets
for Distributed Training", UAI 2022, arXiv:2107.00961.

Nothing is imported until it is needed: a registry imports its modules when the first
one is looked up. What importing does is to make mmdet importable where mmcv has no compiled ops
(see ``resist_mm.ops``), and configs that inherit from ``resist_mm::``; import it before mmdet.
"""

from importlib import import_module
from types import ModuleType

from .config_scope import register_config_scope
from .ops.stand_in import install as install_ops
from .version import __version__

__all__ = ['__version__']

_PARTS = (
    'analysis',
    'datasets',
    'evaluation',
    'exchange',
    'hooks',
    'launch',
    'models',
    'ops',
    'partition',
    'registry',
    'rounds',
)

install_ops()
register_config_scope()


def __getattr__(name: str) -> ModuleType:
    if name in _PARTS:
        return import_module(f'{__name__}.{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
