"""Whether what a worker is about to contribute to an exchange is finite."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from .part import Parts
from .states import TravellingState

__all__ = ['BadNumbers', 'all_finite', 'examine', 'shortened', 'what_is_bad']

MOST_NAMES = 3


class BadNumbers(RuntimeError):
    """A worker has numbers that are not finite, or a loss that exploded; nothing has been averaged or saved.

    Raised on all workers alike.
    """


def examine(parts: Parts, states: Sequence[TravellingState]) -> list[str]:
    """Look for numbers that are not finite in what this worker holds.

    Everything is read once, without a copy; names are only worked out if something is wrong.

    Args:
        parts (Parts): Of this worker.
        states (Sequence[TravellingState]): What is about to travel.

    Returns:
        list[str]: What is wrong, in words; empty if nothing is.
    """
    held = [part for part in parts.all if part.held]
    if all_finite(tensor for part in held for state in states for tensor in state.checked(part)):
        return []
    names = parts.names()
    return [
        f'{complaint} ({part.name})'
        for part in held
        for state in states
        for complaint in what_is_bad(state.named_tensors(part, names))
    ]


@torch.no_grad()
def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether all numbers are finite, as far as their sums tell; a sum of large numbers may overflow."""
    sums: dict[torch.device, list[Tensor]] = {}
    for tensor in tensors:
        if tensor.is_floating_point():
            total = tensor.sum(dtype=torch.promote_types(tensor.dtype, torch.float32))
            sums.setdefault(tensor.device, []).append(total.float())
    return all(bool(torch.stack(of_device).isfinite().all()) for of_device in sums.values())


@torch.no_grad()
def what_is_bad(named: Iterable[tuple[str, Tensor]]) -> list[str]:
    """The tensors with numbers that are not finite, and whether those are NaN or infinite; exact."""
    found = []
    for name, tensor in named:
        if tensor.is_floating_point() and not tensor.isfinite().all():
            kinds = [
                kind for kind, is_bad in (('NaN', tensor.isnan()), ('infinity', tensor.isinf())) if is_bad.any()
            ]
            found.append(f'{" and ".join(kinds)} in {name}')
    return found


def shortened(complaints: Sequence[str]) -> str:
    """Complaints in one line, the first ones by name."""
    more = len(complaints) - MOST_NAMES
    return ', '.join(complaints[:MOST_NAMES]) + (f' and {more} more' if more > 0 else '')
