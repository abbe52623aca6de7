"""Image classifiers. Nothing here needs mmdet."""

from .batch_preprocessor import BatchPreprocessor
from .ensemble_classifier import EnsembleClassifier
from .image_classifier import ImageClassifier

__all__ = ['BatchPreprocessor', 'EnsembleClassifier', 'ImageClassifier']
