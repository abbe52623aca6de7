"""Settings of all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from mmengine.registry import DefaultScope

import resist_mm  # noqa: F401  before any test imports mmdet: mmcv may have no compiled ops

# several test processes share few cores: one thread each is fastest, and gives the same results everywhere
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_default_scope() -> Iterator[None]:
    """A Runner leaves its default scope behind, which would affect the registries in the next test."""
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def real_data() -> Path:
    """The folder of the unpacked real images; skips the test if there is none."""
    folder = os.environ.get('RESIST_MM_DATA')
    if not folder:
        pytest.skip('RESIST_MM_DATA is not set to a folder of real images')
    return Path(folder)
