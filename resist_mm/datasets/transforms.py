"""Pipelines of ``torchvision.transforms.v2`` from configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import torch
from torchvision.transforms import v2

__all__ = ['build_pipeline', 'build_transform', 'transform_arguments']


def build_pipeline(pipeline: Sequence[Mapping[str, Any]]) -> v2.Compose | None:
    """Build a pipeline that works on single images.

    Args:
        pipeline (Sequence[dict]): Transforms of ``torchvision.transforms.v2``, each
            with its name as ``type`` and its arguments.

    Returns:
        v2.Compose: To be called with an image; None for an empty pipeline.

    Raises:
        ValueError: If torchvision has no such transform.
        TypeError: If a transform does not take these arguments.

    Example:
        >>> train_pipeline = [
        ...     dict(type='RandomCrop', size=32, padding=4),
        ...     dict(type='RandomHorizontalFlip'),
        ...     dict(type='ToImage'),
        ...     dict(type='ToDtype', dtype='float32', scale=True),
        ...     dict(type='Normalize', mean=[0.49, 0.48, 0.45], std=[0.25, 0.24, 0.26]),
        ... ]
        >>> transform = build_pipeline(train_pipeline)
    """
    return v2.Compose([build_transform(cfg) for cfg in pipeline]) if pipeline else None


def build_transform(cfg: Mapping[str, Any]) -> v2.Transform:
    """Build one transform; errors as for :func:`build_pipeline`."""
    name, arguments = transform_arguments(cfg)
    cls = getattr(v2, name, None)
    if not (isinstance(cls, type) and issubclass(cls, v2.Transform)):
        known = [key for key, value in vars(v2).items() if isinstance(value, type)]
        similar = get_close_matches(name, known, n=3)
        hint = f': did you mean {" or ".join(similar)}?' if similar else ''
        raise ValueError(f'pipeline: torchvision.transforms.v2 has no transform {name!r}{hint}')
    try:
        return cls(**arguments)
    except (TypeError, ValueError) as error:
        raise type(error)(f'pipeline: torchvision.transforms.v2.{name} with {arguments}: {error}') from None


def transform_arguments(cfg: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Split a transform's config into its name and its arguments, and convert names of dtypes
    and interpolations to what torchvision expects.

    Raises:
        ValueError: If there is no ``type``, or the dtype or interpolation is not known.
    """
    if not isinstance(cfg, Mapping) or not isinstance(cfg.get('type'), str):
        raise ValueError(f"pipeline: a transform is written dict(type='RandomCrop', size=32, ...), got {cfg!r}")
    arguments = dict(cfg)
    name = arguments.pop('type')
    if isinstance(arguments.get('dtype'), str):
        dtype = getattr(torch, arguments['dtype'], None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError(
                f"pipeline: {name}.dtype must be one of torch's, such as 'float32', got {cfg['dtype']!r}"
            )
        arguments['dtype'] = dtype
    if isinstance(arguments.get('interpolation'), str):
        try:
            arguments['interpolation'] = v2.InterpolationMode(arguments['interpolation'])
        except ValueError:
            modes = [mode.value for mode in v2.InterpolationMode]
            raise ValueError(
                f'pipeline: {name}.interpolation must be one of {modes}, got {cfg["interpolation"]!r}'
            ) from None
    return name, arguments
