"""The classes and functions that a checkpoint may name without being trusted."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

__all__ = ['allowed_globals']


@cache
def allowed_globals() -> list[Any]:
    """What mmengine's own checkpoints need beyond tensors, for ``torch.serialization.safe_globals``.

    mmengine's list has the function ``getattr``, with which a file gets at any attribute of what it names. Here
    only a method of ``HistoryBuffer`` can be looked up: its statistics are pickled as such look-ups.
    """
    functions: list[tuple[Any, str]] = [
        (value.__reduce__()[0], f'numpy.{core}.multiarray.{name}')
        for name, value in dict(_reconstruct=np.zeros(()), scalar=np.float64()).items()
        for core in ('core', '_core')  # before numpy 2.0, and since
    ]
    dtypes = {type(np.dtype(code)) for code in np.typecodes['All'] if code != 'O'}
    return [
        *functions,
        (_statistic, 'builtins.getattr'),
        np.ndarray,
        np.dtype,
        *dtypes,
        slice,
        HistoryBuffer,
        ConfigDict,
    ]


def _statistic(owner: Any, name: str) -> Callable:
    if owner is not HistoryBuffer or name.startswith('_') or not inspect.isfunction(getattr(owner, name, None)):
        raise ValueError(f'the file looks up {name!r} of {owner!r}; only statistics of HistoryBuffer are allowed')
    return getattr(owner, name)
