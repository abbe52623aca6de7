"""The mean of a payload over its old holders, at the aggregating worker."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .message import Payload

__all__ = ['stage_mean']


def stage_mean(
    payload: Payload, messages: Sequence[Tensor], holders: Sequence[int], rank: int, shares: Sequence[float] | None
) -> None:
    """Stage the mean of a payload's value and the other holders' messages, computed in at least fp32."""
    assert payload.value is not None, 'this worker does not have it'
    value, room = payload.value, payload.make_room()
    share_of = None if shares is None else dict(zip(holders, shares, strict=True))
    others = [holder for holder in holders if holder != rank]
    precise = torch.promote_types(payload.dtype, torch.float32)
    # without a codec the first message has been received into the room, so that the sum can accumulate there
    in_place = share_of is None and precise == payload.dtype and payload.gathered.codec is None
    total = room if in_place else value.to(precise, copy=True)
    if share_of is not None:
        total *= share_of[rank]
    for i, (holder, message) in enumerate(zip(others, messages, strict=True)):
        if in_place:
            total += value if i == 0 else message
            continue
        decoded = message
        if payload.gathered.codec is not None:
            decoded = torch.empty_like(value)
            payload.gathered.decode(message, decoded)
        total += decoded if share_of is None else decoded * share_of[holder]
    if share_of is None:
        total /= len(holders)
    if total is not room:
        room.copy_(total)
