"""Partitioning the stages that the user has named."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from resist_mm.models.adapters import BlockAdapter, adapter_of
from resist_mm.models.partition import PartitionedStage, partition

from .chains import find_chains

__all__ = ['partition_as_asked']


def partition_as_asked(model: nn.Module, paths: Sequence[str]) -> list[str]:
    """Partition the stages of a model that are named.

    Returns:
        list[str]: Sentences about stages of which it is not known whether their blocks are residual.

    Raises:
        ValueError: If one cannot be partitioned; the chains that were found are named.
    """
    found = [chain.path for chain in find_chains(model)]
    try:
        stages = partition(model, list(paths))
        for stage, path in zip(stages, paths, strict=True):
            _check_is_trained(stage, path)
    except ValueError as error:
        raise ValueError(f'{error}. The chains found in this model: {", ".join(found) or "none"}') from None
    notes = []
    for stage, path in zip(stages, paths, strict=True):
        kinds = {type(b).__name__ for b in stage.partitioned_blocks if type(adapter_of(b)) is BlockAdapter}
        if kinds:
            notes.append(
                f'stages: {path}: blocks of {", ".join(sorted(kinds))} are not known to be residual. A dropped '
                'one passes its input on: that suits blocks that follow one another, not parallel branches'
            )
    return notes


def _check_is_trained(stage: PartitionedStage, path: str) -> None:
    for block in stage.partitioned_blocks:
        if not list(block.parameters()):
            raise ValueError(
                f'stages names {path!r}, which is no chain of blocks: its {type(block).__name__} has no parameters'
            )
    if not all(stage.block_parameters(number) for number in range(stage.num_partitioned)):
        raise ValueError(
            f'stages names {path!r}, but its blocks are frozen: choose another stage, or lower frozen_stages by '
            '--cfg-options model.backbone.frozen_stages=...'
        )
