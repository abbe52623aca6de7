"""What all workers must have alike."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

__all__ = ['agree', 'digest']


def agree(values: dict[str, Any]) -> None:
    """Check that all workers have the same values.

    Args:
        values (dict): What to compare, by a name that a user understands.

    Raises:
        RuntimeError: On all workers, naming the value that differs and what each
            worker has.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    of_workers: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(of_workers, values)
    for name in values:
        found = [of_worker[name] for of_worker in of_workers]
        if any(value != found[0] for value in found):
            listing = ', '.join(f'worker {worker}: {value}' for worker, value in enumerate(found))
            raise RuntimeError(f'the workers disagree on {name} ({listing}): all must have the same')


def digest(model: nn.Module) -> str:
    """A short fingerprint of all parameters and buffers, bit by bit."""
    sha = hashlib.sha256()
    for tensor in [*model.parameters(), *model.buffers()]:
        data = tensor.detach().contiguous().cpu()
        sha.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()[:16]
