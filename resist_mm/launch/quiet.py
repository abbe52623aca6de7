"""Messages of mmengine and mmdet that users can do nothing about."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any

import mmengine.fileio.file_client
import mmengine.logging

__all__ = ['quiet_libraries']

PRINTED = (
    'Could not import OneDL',  # when mmdet is imported; its optional data sets
    '"FileClient" will be deprecated',  # used by mmengine's own hooks
    '"HardDiskBackend" is the alias',
)
WARNED = (
    'faster_coco_eval is not installed',  # when mmdet is imported; its optional metric
    'Setting (OMP|MKL)_NUM_THREADS environment variable',
)


def quiet_libraries() -> None:
    """Drop these messages in this process; to be called before mmdet is imported.

    mmengine's ``print_log`` prints without a logger, whatever the level, so no logging level helps.
    """
    for message in WARNED:
        warnings.filterwarnings('ignore', message=message, category=UserWarning)
    for module in (mmengine.logging, mmengine.fileio.file_client):
        vars(module)['print_log'] = _without_noise(vars(module)['print_log'])


def _without_noise(print_log: Callable[..., None]) -> Callable[..., None]:
    @wraps(print_log)
    def quieter(message: Any, *args: Any, **kwargs: Any) -> None:
        if not str(message).startswith(PRINTED):
            print_log(message, *args, **kwargs)

    return quieter
