"""The argument ``partition_stages`` of backbones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..partition import PartitionedStage

__all__ = ['partition_stages_of']


def partition_stages_of(backbone: Any, partition_stages: str | Sequence[str], partition_first: bool) -> None:
    """Partition stages of a backbone that lists them in ``res_layers``.

    Args:
        backbone (nn.Module): The backbone.
        partition_stages (str or Sequence[str]): Names of stages.
        partition_first (bool): Whether the first, usually strided block is partitioned too.

    Raises:
        ValueError: If a stage does not exist or has too few blocks.
    """
    for name in [partition_stages] if isinstance(partition_stages, str) else partition_stages:
        if name not in backbone.res_layers:
            raise ValueError(
                f'partition_stages names {name!r}, but the stages of this {type(backbone).__name__} '
                f'are {list(backbone.res_layers)}'
            )
        try:
            PartitionedStage(getattr(backbone, name), first=0 if partition_first else 1, name=name)
        except ValueError as error:
            raise ValueError(f'partition_stages names {name!r}: {error}') from None
