"""Detectors."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmdet') is not None:  # classification runs without mmdet
    from .yolov2 import YOLOV2

    __all__ += ['YOLOV2']
