"""For all tests of hooks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mmengine.runner.checkpoint import CheckpointLoader


@pytest.fixture(autouse=True)
def loader() -> Iterator[None]:
    """mmengine's loader is afterwards what it was."""
    schemes = dict(CheckpointLoader._schemes)
    yield
    CheckpointLoader._schemes = schemes
