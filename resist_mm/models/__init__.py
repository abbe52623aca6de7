"""Models: backbones with a partitioned stage, classifiers, detectors, and the wrapper for local training."""

from importlib.util import find_spec

from .backbones import *  # noqa: F403
from .classifiers import *  # noqa: F403
from .partitioned_stage import PartitionedStage, partitioned_stages
from .wrappers import LocalModel

if find_spec('mmdet') is not None:  # classification runs without mmdet
    from .dense_heads import *  # noqa: F403
    from .detectors import *  # noqa: F403

__all__ = ['LocalModel', 'PartitionedStage', 'partitioned_stages']
