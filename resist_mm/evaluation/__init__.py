"""Metrics."""

from .accuracy import Accuracy
from .loss_metric import LossMetric

__all__ = ['Accuracy', 'LossMetric']
