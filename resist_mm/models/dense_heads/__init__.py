"""Detection heads."""

from importlib.util import find_spec

__all__ = []

if find_spec('mmdet') is not None:  # classification runs without mmdet
    from .yolov2_head import YOLOV2Head

    __all__ += ['YOLOV2Head']
