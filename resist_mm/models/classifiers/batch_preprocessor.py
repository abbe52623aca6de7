"""Crops, flips and normalises whole batches on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor

from resist_mm.datasets.batch_transforms import build_batch_pipeline
from resist_mm.registry import MODELS

__all__ = ['BatchPreprocessor']


@MODELS.register_module()
class BatchPreprocessor(BaseDataPreprocessor):
    """Moves a batch to the device and runs a pipeline on all of its images there.

    The counterpart of a data set with ``in_memory=True``: the transforms that would
    otherwise be in the ``pipeline`` of the data set are given here, and are applied to
    every image of a batch independently. See
    :func:`resist_mm.datasets.batch_transforms.build_batch_pipeline`.

    Args:
        train_pipeline (Sequence[dict]): Transforms in training. Defaults to ().
        test_pipeline (Sequence[dict]): Transforms in validation and test. Defaults
            to ().
        non_blocking (bool): Whether the copy to the device is asynchronous.
            Defaults to True.

    Example:
        >>> data_preprocessor = dict(
        ...     type='resist_mm.BatchPreprocessor',
        ...     train_pipeline=[
        ...         dict(type='RandomCrop', size=32, padding=4),
        ...         dict(type='RandomHorizontalFlip'),
        ...         dict(type='ToDtype', dtype='float32', scale=True),
        ...         dict(type='Normalize', mean=[0.49, 0.48, 0.45], std=[0.25, 0.24, 0.26]),
        ...     ],
        ... )
    """

    def __init__(
        self,
        train_pipeline: Sequence[Mapping[str, Any]] = (),
        test_pipeline: Sequence[Mapping[str, Any]] = (),
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        self.train_pipeline = build_batch_pipeline(train_pipeline)
        self.test_pipeline = build_batch_pipeline(test_pipeline)

    @torch.no_grad()
    def forward(self, data: dict, training: bool = False) -> dict:
        """Prepare a batch.

        Args:
            data (dict): ``inputs`` of shape (N, C, H, W), and anything else.
            training (bool): Which pipeline to run. Defaults to False.

        Returns:
            dict: The same on the device, ``inputs`` transformed.
        """
        cast: dict = self.cast_data(data)  # type: ignore[assignment]
        pipeline = self.train_pipeline if training else self.test_pipeline
        return {**cast, 'inputs': pipeline(cast['inputs'])}
