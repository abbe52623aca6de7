"""ResIST for the OpenMMLab stack: residual networks trained as shallow sub-ResNets.

Dun, Wolfe, Jermaine, Kyrillidis, "ResIST: Layer-Wise Decomposition of ResNets
for Distributed Training", UAI 2022, arXiv:2107.00961.
"""

from . import datasets, engine, evaluation, models
from .version import __version__

__all__ = ['__version__', 'datasets', 'engine', 'evaluation', 'models']
