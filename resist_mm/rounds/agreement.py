"""Checks that all workers agree."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ['agree', 'digest', 'tell_all']


def agree(values: dict[str, Any]) -> None:
    """Check that all workers have the same values.

    Args:
        values (dict): The values to compare, each under a name that a user understands.

    Raises:
        RuntimeError: On all workers, with the name of the value that differs and each
            worker's value.
    """
    of_workers = tell_all(values)
    for name in values:
        found = [of_worker[name] for of_worker in of_workers]
        if any(value != found[0] for value in found):
            listing = ', '.join(f'worker {worker}: {value}' for worker, value in enumerate(found))
            raise RuntimeError(f'the workers disagree on {name} ({listing}): all must have the same')


def tell_all(value: Any) -> list[Any]:
    """Tell all workers something that can be pickled; returns what each of them tells, by rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    of_workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_workers, value)
    return of_workers


def digest(model: nn.Module) -> str:
    """A short fingerprint of the bits of all parameters and buffers."""
    sha = hashlib.sha256()
    for tensor in [*model.parameters(), *model.buffers()]:
        data = tensor.detach().contiguous().cpu()
        sha.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]
