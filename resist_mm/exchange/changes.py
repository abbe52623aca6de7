"""A codec of what a round has changed: a few bits a number, or of the largest ones only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from .bits import PIECE, in_whole, pack_bits, piece_of, unpack_bits
from .codec import Codec, Quantize

__all__ = ['Changes']

# by bits: the step of a uniform quantiser with the least mean square error for normally distributed numbers, in
# standard deviations (Max, "Quantizing for Minimum Distortion", IRE Trans. Inf. Theory 6, 1960)
STEPS = {2: 0.9957, 3: 0.5860, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}
DENSE_CHUNK, SPARSE_CHUNK = 512, 4096


class Changes(Codec):
    """What has changed since the round began, quantised to a few bits, with error feedback.

    Changes are smaller than weights by an order of magnitude, so that fewer bits do. They are cut into chunks. Of
    each number the sign is sent, and where its magnitude lies on a uniform scale of ``2 ** (bits - 1)`` levels. A
    chunk's scale ends where the error is least for normally distributed numbers. What lies beyond it, and all
    that rounding loses, is added in the next round, as far as it belongs to the shared part (error feedback).

    With ``share`` below 1 only the largest changes of each chunk are sent, with their positions: Sarfi et al.,
    "Communication Efficient LLM Pre-training with SparseLoCo", arXiv:2508.15706, which sends 1 to 3% at 2 bits.

    A worker that has not held a block lacks its value from the start of the round: it gets the block itself, at a
    finer rate.

    Args:
        bits (int): Of a change, 2 to 8. Defaults to 2.
        share (float): Share of the changes that is sent, above 0 and up to 1. Defaults to 1: all.
        error_feedback (bool): Whether what is left out of the shared part is added in the next round. Defaults to
            True.
        new_holders (dict or str, optional): How a block is sent if not all receivers have its old value: the
            arguments of :class:`Quantize`, or 'whole': in fp32. Defaults to None: ``dict(bits=8)``.
        chunk (int, optional): Numbers in a chunk, a multiple of 8 up to 65,536. Its scale takes 4 bytes if all
            changes are sent, else 8. Defaults to None: 512 if all are sent, else 4,096.
        exact_whole (bool): Whether the model is made whole in fp32 for validations too. If not, it is sent as from
            round to round, the blocks at the finer rate: what is validated is the same on all workers, and
            training goes on from it and from what error feedback has kept. Checkpoints that are due and the
            result of training are exact either way. Defaults to True.

    Raises:
        ValueError: If an argument is out of range.
    """

    uses_reference = True

    def __init__(
        self,
        bits: int = 2,
        share: float = 1.0,
        error_feedback: bool = True,
        new_holders: Mapping[str, Any] | str | None = None,
        chunk: int | None = None,
        exact_whole: bool = True,
    ) -> None:
        if isinstance(bits, bool) or not isinstance(bits, int) or bits not in STEPS:
            raise ValueError(f'codec.bits must be an integer from 2 to 8, got {bits!r}')
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f'codec.share must be above 0 and at most 1, got {share!r}')
        for name, flag in (('error_feedback', error_feedback), ('exact_whole', exact_whole)):
            if not isinstance(flag, bool):
                raise ValueError(f'codec.{name} must be True or False, got {flag!r}')
        if chunk is not None and (
            isinstance(chunk, bool) or not isinstance(chunk, int) or chunk % 8 or not 8 <= chunk <= 65536
        ):
            raise ValueError(f'codec.chunk must be None or a multiple of 8 up to 65536, got {chunk!r}')
        self.bits, self.share, self.feeds_errors_back = bits, share, error_feedback
        self.exact_whole = exact_whole
        self.chunk = (DENSE_CHUNK if share == 1 else SPARSE_CHUNK) if chunk is None else chunk
        self.new_holders = dict(bits=8) if new_holders is None else new_holders
        self._finer = _finer(self.new_holders)
        self.whole_for_new_holders = self._finer is None

    def of_new_holders(self) -> Codec | None:
        """At the finer rate."""
        return self._finer

    def message_bytes(self, numel: int) -> int:
        """Codes, positions if not all changes are sent, and scales, in whole chunks but for the codes."""
        chunks = -(-numel // self.chunk)
        if self.share == 1:
            return -(-numel // 8) * self.bits + 4 * chunks
        sent = -(-chunks * self._kept // 8)
        return sent * (self.bits + 8 + self._high_bits) + 8 * chunks

    def scratch_bytes(self, numel: int) -> int:
        """What a piece takes (on a GPU a larger one) and scales; or magnitudes, codes and positions."""
        if self.share == 1:
            return 32 * min(numel, piece_of(self.chunk, torch.device('cpu'))) + 8 * -(-numel // self.chunk)
        return 12 * numel + 36 * -(-numel // self.chunk) * self._kept + 24 * PIECE

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        """Quantise the changes, or the largest ones."""
        if self.share < 1:
            return self._encode_largest(in_whole(_changes(tensor, reference), self.chunk).view(-1, self.chunk))
        size, packed_bytes = piece_of(self.chunk, tensor.device), -(-tensor.numel() // 8) * self.bits
        message = torch.empty(self.message_bytes(tensor.numel()), dtype=torch.uint8, device=tensor.device)
        fields, scales = message[:packed_bytes].split(size // 8 * self.bits), []
        for (new, old), field in zip(self._pieces(tensor, reference), fields, strict=True):
            codes, most = self._encode_all(_changes(new, old))
            field.copy_(pack_bits(codes, self.bits))
            scales.append(most)
        message[packed_bytes:] = _bytes_of(torch.cat(scales))
        return message

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        """Add the changes to the reference."""
        num_chunks = -(-out.numel() // self.chunk)
        if self.share < 1:
            changes = self._spread(message, num_chunks).view(-1)[: out.numel()]
            out.copy_(changes if reference is None else changes.add_(reference))
            return
        packed, scales = message.split([-(-out.numel() // 8) * self.bits, 4 * num_chunks])
        of_chunks = scales.clone().view(torch.float32).view(-1, 1)
        size = piece_of(self.chunk, out.device)
        middles = torch.arange(self._levels, device=out.device) + 0.5
        middles = torch.cat([middles, -middles])  # by code: of its level, in steps, with the sign
        fields = packed.split(size // 8 * self.bits), of_chunks.split(size // self.chunk)
        for (new, old), field, most in zip(self._pieces(out, reference), *fields, strict=True):
            codes = in_whole(unpack_bits(field, self.bits), self.chunk).view(-1, self.chunk)
            steps = middles.index_select(0, codes.view(-1).int()).view_as(codes)
            changes = steps.mul_(most / self._levels).view(-1)[: new.numel()]
            new.copy_(changes if old is None else changes.add_(old))

    def _pieces(self, tensor: Tensor, reference: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
        if reference is not None and reference.shape != tensor.shape:
            raise ValueError(f'a reference of shape {tuple(reference.shape)} for {tuple(tensor.shape)} numbers')
        size = piece_of(self.chunk, tensor.device)
        return zip(tensor.split(size), repeat(None) if reference is None else reference.split(size), strict=False)

    def _encode_all(self, changes: Tensor) -> tuple[Tensor, Tensor]:
        """The codes, in whole groups of eight, and where the scales of the chunks end."""
        padding = -changes.numel() % self.chunk
        chunks = in_whole(changes, self.chunk).view(-1, self.chunk)
        lengths = torch.full_like(chunks[:, :1], self.chunk)
        lengths[-1] -= padding
        deviation = (chunks.square().sum(1, keepdim=True) / lengths).sqrt()
        most = deviation * (STEPS[self.bits] * self._levels)
        codes = self._codes(chunks, torch.zeros_like(most), most).view(-1)
        return codes[: -(-changes.numel() // 8) * 8], most

    def _encode_largest(self, chunks: Tensor) -> Tensor:
        magnitudes, places = chunks.abs().topk(self._kept, dim=1)
        places = places.sort(1).values
        least, most = magnitudes[:, -1:], magnitudes[:, :1]
        codes = self._codes(chunks.gather(1, places), least, most)
        fields = [pack_bits(in_whole(codes, 8), self.bits), in_whole((places & 255).to(torch.uint8), 8)]
        if self._high_bits:
            fields.append(pack_bits(in_whole((places >> 8).to(torch.uint8), 8), self._high_bits))
        return torch.cat([*fields, _bytes_of(least), _bytes_of(most)])

    def _spread(self, message: Tensor, num_chunks: int) -> Tensor:
        """The changes of a message that holds the largest ones, in their places."""
        sent = num_chunks * self._kept
        groups = -(-sent // 8)
        sizes = [groups * self.bits, groups * 8, groups * self._high_bits, 4 * num_chunks, 4 * num_chunks]
        packed, low, high, *scales = message.split(sizes)
        least, most = (scale.clone().view(torch.float32).view(-1, 1) for scale in scales)
        places = low[:sent].to(torch.int64)
        if self._high_bits:
            places += unpack_bits(high, self._high_bits)[:sent].to(torch.int64) << 8
        codes = unpack_bits(packed, self.bits)[:sent].view(num_chunks, -1)
        spread = torch.zeros(num_chunks, self.chunk, device=message.device)
        return spread.scatter_(1, places.view(num_chunks, -1), self._numbers(codes, least, most))

    def _codes(self, numbers: Tensor, least: Tensor, most: Tensor) -> Tensor:
        """Signs and levels of magnitudes between ``least`` and ``most``, which are one number for each row."""
        step = ((most - least) / self._levels).clamp_min_(torch.finfo(torch.float32).tiny)
        levels = numbers.abs().sub_(least).div_(step).floor_().clamp_(0, self._levels - 1).to(torch.uint8)
        return levels.add_((numbers < 0).to(torch.uint8) * self._levels)

    def _numbers(self, codes: Tensor, least: Tensor, most: Tensor) -> Tensor:
        """The middle of each level."""
        negative = codes >= self._levels
        levels = (codes - negative.to(torch.uint8) * self._levels).float()
        magnitudes = torch.addcmul(least, levels.add_(0.5), (most - least) / self._levels)
        return torch.where(negative, -magnitudes, magnitudes)

    @property
    def _levels(self) -> int:
        return 1 << (self.bits - 1)

    @property
    def _kept(self) -> int:
        return max(1, round(self.share * self.chunk))

    @property
    def _high_bits(self) -> int:
        """Bits of a position in a chunk beyond its first eight."""
        return max(0, (self.chunk - 1).bit_length() - 8)


def _finer(new_holders: Any) -> Codec | None:
    if new_holders == 'whole':
        return None
    if not isinstance(new_holders, Mapping):
        raise ValueError(f"codec.new_holders must be 'whole' or such as dict(bits=8), got {new_holders!r}")
    try:
        return Quantize(**new_holders)
    except (TypeError, ValueError) as error:
        raise ValueError(f'codec.new_holders={new_holders!r}: {error}') from None


def _bytes_of(numbers: Tensor) -> Tensor:
    return numbers.contiguous().view(-1).view(torch.uint8)


def _changes(tensor: Tensor, reference: Tensor | None) -> Tensor:
    return tensor.float() if reference is None else tensor.float() - reference.float()
