"""Packs numbers of a few bits into bytes."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ['PIECE', 'in_whole', 'pack_bits', 'piece_of', 'unpack_bits']

PIECE = 1 << 17  # numbers coded at a time, so that what is in between stays in a processor's cache
LANES = (16, 32, 64)


def piece_of(chunk: int, device: torch.device) -> int:
    """How many numbers are coded at a time: whole chunks; on a GPU, which starts kernels for each piece, more."""
    return max(1, (PIECE if device.type == 'cpu' else 16 * PIECE) // chunk) * chunk


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack numbers below ``2 ** bits``, eight into ``bits`` bytes; shape (8n,) to (bits * n,).

    Eight codes are a word of 64 bits. In lanes of 16, 32 and 64 bits, the upper half moves down to the lower one,
    until all codes lie side by side. (On a little-endian machine, as everything that torch runs on.)
    """
    if bits == 8:
        return codes
    piece = piece_of(8, codes.device)
    packed = torch.empty(codes.numel() // 8 * bits, dtype=torch.uint8, device=codes.device)
    for part, out in zip(codes.split(piece), packed.split(piece // 8 * bits), strict=True):
        words = _aligned(part).view(torch.int64)
        for lane in LANES:
            width = bits * lane // 16
            low = _low_bits(width, lane)
            words = (words >> (lane // 2 - width)).bitwise_and_(low << width).bitwise_or_(words & low)
        out.view(-1, bits).copy_(words.view(torch.uint8).view(-1, 8)[:, :bits])
    return packed


def unpack_bits(packed: Tensor, bits: int) -> Tensor:
    """The inverse of :func:`pack_bits`."""
    if bits == 8:
        return packed
    piece = piece_of(8, packed.device)
    codes = torch.empty(packed.numel() // bits * 8, dtype=torch.uint8, device=packed.device)
    for part, out in zip(packed.split(piece // 8 * bits), codes.split(piece), strict=True):
        words = torch.zeros(out.numel() // 8, dtype=torch.int64, device=packed.device)
        words.view(torch.uint8).view(-1, 8)[:, :bits] = part.view(-1, bits)
        for lane in reversed(LANES):
            width = bits * lane // 16
            low = _low_bits(width, lane)
            words = (words << (lane // 2 - width)).bitwise_and_(low << lane // 2).bitwise_or_(words & low)
        out.copy_(words.view(torch.uint8))
    return codes


def in_whole(numbers: Tensor, group: int) -> Tensor:
    """One-dimensional, with zeros up to whole groups."""
    flat = numbers.reshape(-1)
    padding = -flat.numel() % group
    return torch.cat([flat, flat.new_zeros(padding)]) if padding else flat


def _low_bits(width: int, lane: int) -> int:
    """A word with the lowest ``width`` bits of each lane."""
    return sum(((1 << width) - 1) << start for start in range(0, 64, lane))


def _aligned(codes: Tensor) -> Tensor:
    return codes if codes.storage_offset() % 8 == 0 else codes.clone()
