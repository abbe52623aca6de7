"""Image classifiers. Nothing here needs mmdet, except a backbone of Fig. 6."""

from importlib.util import find_spec

from .batch_preprocessor import BatchPreprocessor
from .ensemble_classifier import EnsembleClassifier
from .image_classifier import ImageClassifier

__all__ = ['BatchPreprocessor', 'EnsembleClassifier', 'ImageClassifier']

if find_spec('mmdet') is not None:
    from .cifar_resnet import CIFARResNet

    __all__ += ['CIFARResNet']
