"""Packs numbers of a few bits into bytes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['PIECE', 'pack_bits', 'unpack_bits']

PIECE = 1 << 16  # numbers packed at a time: the intermediate words take eight times their memory


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack numbers below ``2 ** bits``, eight into ``bits`` bytes; shape (8n,) to (bits * n,)."""
    if bits == 8:
        return codes
    packed = torch.empty(codes.numel() // 8 * bits, dtype=torch.uint8, device=codes.device)
    shifts = torch.arange(8, device=codes.device) * bits
    places = torch.arange(bits, device=codes.device) * 8
    for piece, out in zip(codes.split(PIECE), packed.split(PIECE // 8 * bits), strict=True):
        words = (piece.view(-1, 8).to(torch.int64) << shifts).sum(1, keepdim=True)  # at most 56 bits
        out.copy_(((words >> places) & 255).view(-1))
    return packed


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """The inverse of :func:`pack_bits`."""
    if bits == 8:
        return packed
    codes = torch.empty(packed.numel() // bits * 8, dtype=torch.uint8, device=packed.device)
    shifts = torch.arange(8, device=packed.device) * bits
    places = torch.arange(bits, device=packed.device) * 8
    for piece, out in zip(packed.split(PIECE // 8 * bits), codes.split(PIECE), strict=True):
        words = (piece.view(-1, bits).to(torch.int64) << places).sum(1, keepdim=True)
        out.copy_(((words >> shifts) & (2**bits - 1)).view(-1))
    return codes
