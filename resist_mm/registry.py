"""Child registries of mmengine's.

In an OpenMMLab config the modules of this package are written ``resist_mm.X``.
"""

from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import FUNCTIONS as MMENGINE_FUNCTIONS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import METRICS as MMENGINE_METRICS
from mmengine.registry import MODEL_WRAPPERS as MMENGINE_MODEL_WRAPPERS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import OPTIM_WRAPPERS as MMENGINE_OPTIM_WRAPPERS
from mmengine.registry import Registry

__all__ = [
    'CODECS',
    'DATASETS',
    'FUNCTIONS',
    'HOOKS',
    'METRICS',
    'MODELS',
    'MODEL_WRAPPERS',
    'OPTIM_WRAPPERS',
    'PROTOCOLS',
]

SCOPE = 'resist_mm'

MODELS = Registry(
    'model',
    parent=MMENGINE_MODELS,
    scope=SCOPE,
    locations=[
        f'resist_mm.models.{name}'
        for name in ('backbones', 'classifiers', 'dense_heads', 'detectors', 'partitioned')
    ],
)
MODEL_WRAPPERS = Registry(
    'model_wrapper',
    parent=MMENGINE_MODEL_WRAPPERS,
    scope=SCOPE,
    locations=['resist_mm.models.wrappers'],
)
OPTIM_WRAPPERS = Registry(
    'optim_wrapper',
    parent=MMENGINE_OPTIM_WRAPPERS,
    scope=SCOPE,
    locations=['resist_mm.models.wrappers'],
)
HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope=SCOPE, locations=['resist_mm.hooks'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope=SCOPE, locations=['resist_mm.datasets'])
METRICS = Registry('metric', parent=MMENGINE_METRICS, scope=SCOPE, locations=['resist_mm.evaluation'])
FUNCTIONS = Registry('function', parent=MMENGINE_FUNCTIONS, scope=SCOPE, locations=['resist_mm.datasets'])
CODECS = Registry('codec', scope=SCOPE, locations=['resist_mm.builders'])
PROTOCOLS = Registry('protocol', scope=SCOPE, locations=['resist_mm.hooks.protocols'])
