"""ResIST for the OpenMMLab stack: residual networks trained as shallow sub-ResNets.

Dun, Wolfe, Jermaine, Kyrillidis, "ResIST: Layer-Wise Decomposition of ResNets
for Distributed Training", UAI 2022, arXiv:2107.00961.

Nothing else is imported until it is needed: a registry imports its modules when something is first looked up in
it. What importing does is to make mmdet importable where mmcv has no compiled ops (see ``resist_mm.ops``), and
configs that inherit from ``resist_mm::``; import it before mmdet.
"""

from importlib import import_module
from typing import Any

from .config_scope import register_config_scope
from .ops.stand_in import install as install_ops
from .version import __version__

__all__ = [
    'DetInferencer',
    'ImageClassificationInferencer',
    '__version__',
    'to_ddp',
    'to_local_sgd',
    'to_resist',
]

_PARTS = (
    'analysis',
    'checkpoint',
    'convert',
    'datasets',
    'evaluation',
    'exchange',
    'hooks',
    'inference',
    'launch',
    'models',
    'ops',
    'partition',
    'registry',
    'rounds',
)

install_ops()
register_config_scope()


def __getattr__(name: str) -> Any:
    if name in _PARTS:
        return import_module(f'{__name__}.{name}')
    if name in __all__:
        part = 'inference' if name.endswith('Inferencer') else 'convert'
        return getattr(import_module(f'{__name__}.{part}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
