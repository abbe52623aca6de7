"""Several tensors in one message."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ['pack', 'pack_bytes', 'unpack', 'unpack_bytes']


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors of one dtype into one flat tensor."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def unpack(tensors: Sequence[Tensor], message: Tensor) -> None:
    """Copy a flat tensor back into the tensors that it was packed from."""
    for tensor, piece in zip(tensors, message.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def pack_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors of any dtypes into one flat tensor of bytes."""
    return torch.cat([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])


@torch.no_grad()
def unpack_bytes(tensors: Sequence[Tensor], message: Tensor) -> None:
    """Copy a flat tensor of bytes back into the tensors that it was packed from."""
    for tensor, piece in zip(tensors, message.split([t.nbytes for t in tensors]), strict=True):
        # clone: a view of another dtype needs an aligned start
        tensor.copy_(piece.clone().view(tensor.dtype).view_as(tensor))
