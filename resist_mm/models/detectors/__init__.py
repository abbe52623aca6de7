"""Detectors."""

from .yolov2 import YOLOV2

__all__ = ['YOLOV2']
