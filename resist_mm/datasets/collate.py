"""Batches of images with labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.utils.data import default_collate

from resist_mm.registry import FUNCTIONS

__all__ = ['Batch', 'collate']


class Batch(dict):
    """A batch that an in-memory set has taken from its array in one step.

    A collate function other than :func:`collate` would mistake it for a list of samples.
    """

    def __missing__(self, key: Any) -> Any:
        """Explain what to change.

        Raises:
            KeyError: Always.
        """
        raise KeyError(
            f'{key!r} is not in the batch, which has {sorted(self)}: a data set with in_memory=True returns whole '
            "batches. Put collate_fn=dict(type='resist_mm.collate') in the dataloader"
        )


@FUNCTIONS.register_module()
def collate(samples: Any) -> Any:
    """PyTorch's ``default_collate``; what is already a batch is returned unchanged.

    Args:
        samples (list or Batch): What the data set returned for the indices of a batch.

    Returns:
        dict: ``inputs`` of shape (N, 3, H, W) and ``labels`` of shape (N,).

    Example:
        >>> train_dataloader = dict(collate_fn=dict(type='resist_mm.collate'))
    """
    return dict(samples) if isinstance(samples, Mapping) else default_collate(samples)
