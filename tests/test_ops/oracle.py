"""The compiled ops of mmcv, which those of ``resist_mm.ops`` are compared with."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from resist_mm.ops.stand_in import OPS, StandIn

DEVICES = ['cpu', pytest.param('cuda', marks=pytest.mark.gpu)]


def compiled_ops(device: str = 'cpu') -> ModuleType:
    """``mmcv._ext``; skips where it is not compiled for the device."""
    extension = import_module('mmcv._ext')
    if isinstance(extension, StandIn):
        pytest.skip('the ops of mmcv are not compiled here, nothing to compare with')
    if device == 'cuda' and not torch.cuda.is_available():
        pytest.skip('no CUDA device')
    if device == 'cuda' and extension.get_compiling_cuda_version() == 'not available':
        pytest.skip('the ops of mmcv are compiled for the CPU only')
    return extension


def replaced(name: str) -> Any:
    """The op of ``resist_mm.ops``, whatever mmcv has."""
    return getattr(import_module(f'resist_mm.ops.{OPS[name]}'), name)


def assert_same(
    name: str, *tensors: Tensor, device: str = 'cpu', rtol: float = 1e-4, atol: float = 1e-5, **options: Any
) -> Any:
    """Calls both ops with equal tensors: results and outputs must agree, and inputs stay as they were in both.

    Returns:
        What the op of ``resist_mm.ops`` returned, and its tensors after the call.
    """
    compiled = getattr(compiled_ops(device), name)
    theirs = [tensor.clone().to(device) for tensor in tensors]
    ours = [tensor.clone().to(device) for tensor in tensors]
    expected = compiled(*theirs, **options)
    result = replaced(name)(*ours, **options)
    assert type(result) is type(expected)
    if expected is not None:
        torch.testing.assert_close(result, expected, rtol=rtol, atol=atol)
    for place, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        assert torch.allclose(our, their, rtol=rtol, atol=atol), f'tensor {place}: {our - their}'
    return result, ours
