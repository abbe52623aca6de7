"""Inference in three lines: detectors and classifiers, whose checkpoints are read without running code."""

from importlib import import_module
from typing import Any

from .classification import ImageClassificationInferencer

__all__ = ['DetInferencer', 'ImageClassificationInferencer']


def __getattr__(name: str) -> Any:
    if name == 'DetInferencer':  # needs mmdet
        return import_module(f'{__name__}.detection').DetInferencer
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
