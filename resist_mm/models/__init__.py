"""Models: partitioned chains of blocks, backbones, classifiers, detectors, and the wrapper for local training.

Nothing is imported until it is needed, so that the partition of a plain PyTorch model needs none of OpenMMLab's
packages.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import CIFARResNet, PartitionableResNet, PreActBasicBlock, PreActBottleneck, PreActResNet
    from .classifiers import BatchPreprocessor, EnsembleClassifier, ImageClassifier
    from .dense_heads import YOLOV2Head
    from .detectors import YOLOV2
    from .partition import PartitionedStage, partitioned_stages
    from .partitioned import Partitioned
    from .wrappers import LocalModel

_MODULE_OF = dict(
    BatchPreprocessor='classifiers',
    CIFARResNet='backbones',
    EnsembleClassifier='classifiers',
    ImageClassifier='classifiers',
    LocalModel='wrappers',
    PartitionableResNet='backbones',
    Partitioned='partitioned',
    PartitionedStage='partition',
    PreActBasicBlock='backbones',
    PreActBottleneck='backbones',
    PreActResNet='backbones',
    YOLOV2='detectors',
    YOLOV2Head='dense_heads',
    partitioned_stages='partition',
)

__all__ = [
    'YOLOV2',
    'BatchPreprocessor',
    'CIFARResNet',
    'EnsembleClassifier',
    'ImageClassifier',
    'LocalModel',
    'PartitionableResNet',
    'Partitioned',
    'PartitionedStage',
    'PreActBasicBlock',
    'PreActBottleneck',
    'PreActResNet',
    'YOLOV2Head',
    'partitioned_stages',
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(import_module(f'{__name__}.{_MODULE_OF[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
