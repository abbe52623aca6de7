"""Codecs: compressed messages of flat tensors.

The paper quantises what is communicated to k bits and keeps the largest quarter
of the weights (Appendix A.5, Table 9). A codec turns a flat tensor into a message
of bytes and back. Decoding is deterministic, so that all workers that decode a
message agree bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from .bits import PIECE, in_whole, pack_bits, piece_of, unpack_bits

__all__ = ['BF16', 'Codec', 'Quantize', 'TopK']


class Codec(ABC):
    """Turns a flat tensor into a message and back.

    An engine tries it on a few numbers before training.

    Attributes:
        uses_reference: Whether a message holds changes relative to a tensor that both the
            sender and the receivers have.
        whole_for_new_holders: Whether a block travels uncompressed if one of its new
            holders has no old value of it.
        feeds_errors_back: Whether what compression leaves out of the shared part is added in
            the next round (error feedback).
        exact_whole: Whether the model is made whole in fp32 also where it is only validated.
        is_random: Whether encoding draws random numbers.
    """

    uses_reference = False
    whole_for_new_holders = False
    feeds_errors_back = False
    exact_whole = True
    is_random = False

    @abstractmethod
    def message_bytes(self, numel: int) -> int:
        """Size of a message of ``numel`` fp32 numbers, in bytes, overhead included."""

    def of_new_holders(self) -> Codec | None:
        """The codec of a block that not all of its receivers have an old value of; None: it is not compressed."""
        return None if self.whole_for_new_holders else self

    def scratch_bytes(self, numel: int) -> int:
        """Peak memory of encoding or decoding ``numel`` numbers, in bytes, without the numbers and the message."""
        return 4 * numel

    @abstractmethod
    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        """Encode a tensor.

        Args:
            tensor (Tensor): Shape (numel,), floating point.
            reference (Tensor, optional): Shape (numel,); None stands for zeros.

        Returns:
            Tensor: Bytes, of dtype uint8 and shape (message_bytes(numel),).
        """

    @abstractmethod
    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        """Decode a message into ``out``, of shape (numel,).

        ``reference`` is the one that the sender encoded with; it may be ``out`` itself.
        """


class BF16(Codec):
    """Numbers in bfloat16: half the bytes, about three significant digits."""

    def message_bytes(self, numel: int) -> int:
        """Two bytes a number."""
        return 2 * numel

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        """Round to nearest."""
        return tensor.to(torch.bfloat16).view(torch.uint8)

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        """Convert back."""
        out.copy_(message.view(torch.bfloat16))


class Quantize(Codec):
    """Uniform quantisation to a few bits, packed.

    The tensor is cut into chunks. Each has its own zero point (its smallest number)
    and step, so that its numbers lie on ``2 ** bits`` levels. With rounding to
    nearest, a number is off by at most half a step of its chunk. A message consists
    of the packed codes, eight numbers in ``bits`` bytes, followed by the zero point
    and step of every chunk in fp32.

    Args:
        bits (int): 4 to 8.
        stochastic (bool): Whether to round up or down at random, without bias
            (Alistarh et al., QSGD, arXiv:1610.02132), instead of to nearest.
            Defaults to False.
        chunk (int): Numbers in a chunk, a multiple of 8; its zero point and step take
            8 bytes. Defaults to 512.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, bits: int, stochastic: bool = False, chunk: int = 512) -> None:
        if not isinstance(bits, int) or bits not in range(4, 9):
            raise ValueError(f'codec.bits must be an integer from 4 to 8, got {bits!r}')
        if not isinstance(chunk, int) or chunk < 8 or chunk % 8:
            raise ValueError(f'codec.chunk must be a multiple of 8, got {chunk!r}')
        if not isinstance(stochastic, bool):
            raise ValueError(f'codec.stochastic must be True or False, got {stochastic!r}')
        self.bits = bits
        self.stochastic = self.is_random = stochastic
        self.chunk = chunk

    def message_bytes(self, numel: int) -> int:
        """The codes, in whole groups of eight, and 8 bytes for each chunk."""
        return -(-numel // 8) * self.bits + 8 * -(-numel // self.chunk)

    def scratch_bytes(self, numel: int) -> int:
        """What a piece takes (on a GPU pieces are larger), and the scales, twice."""
        return 32 * min(numel, piece_of(self.chunk, torch.device('cpu'))) + 16 * -(-numel // self.chunk)

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        """Quantise and pack."""
        size, packed_bytes = piece_of(self.chunk, tensor.device), -(-tensor.numel() // 8) * self.bits
        message = torch.empty(self.message_bytes(tensor.numel()), dtype=torch.uint8, device=tensor.device)
        zeros, steps = [], []
        fields = message[:packed_bytes].split(size // 8 * self.bits)
        for piece, field in zip(tensor.split(size), fields, strict=True):
            codes, zero, step = self._encode_piece(piece.float())
            field.copy_(pack_bits(codes, self.bits))
            zeros.append(zero)
            steps.append(step)
        message[packed_bytes:] = torch.cat(zeros + steps).view(-1).view(torch.uint8)
        return message

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        """Unpack and dequantise."""
        num_chunks = -(-out.numel() // self.chunk)
        packed, scales = message.split([-(-out.numel() // 8) * self.bits, 8 * num_chunks])
        zeros, steps = scales.clone().view(torch.float32).view(2, num_chunks, 1)
        size = piece_of(self.chunk, out.device)
        fields = packed.split(size // 8 * self.bits), *(of.split(size // self.chunk) for of in (zeros, steps))
        for piece, field, zero, step in zip(out.split(size), *fields, strict=True):
            codes = in_whole(unpack_bits(field, self.bits), self.chunk)
            piece.copy_(torch.addcmul(zero, codes.view(-1, self.chunk).float(), step).view(-1)[: piece.numel()])

    def _encode_piece(self, numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The codes, in whole groups of eight, the smallest number and the step of each chunk."""
        numel, padding = numbers.numel(), -numbers.numel() % self.chunk
        if padding:  # with the last number, which does not change the chunk's range
            numbers = torch.cat([numbers, numbers[-1:].expand(padding)])
        chunks = numbers.view(-1, self.chunk)
        zero, most = chunks.aminmax(dim=1, keepdim=True)
        step = (most - zero) / (2**self.bits - 1)
        levels = (chunks - zero).div_(step.clamp_min(torch.finfo(torch.float32).tiny))
        levels = levels.add_(torch.rand_like(levels)).floor_() if self.stochastic else levels.round_()
        codes = levels.clamp_(0, 2**self.bits - 1).to(torch.uint8).view(-1)
        return codes[: -(-numel // 8) * 8], zero, step


class TopK(Codec):
    """The numbers that changed most; the others keep their old values.

    With a reference, a message holds the largest changes relative to it; without one,
    it holds the largest numbers, and the others become zero (as in the paper).
    Positions are sent as a bit map, values in fp32.

    Args:
        share (float): Share of the numbers that is sent, above 0 and up to 1.
            Defaults to 0.25, as in the paper.
        new_holders (str): How a block is sent if not all of its new holders have its old
            value: 'whole', in fp32, or 'largest', its largest weights and zeros elsewhere.
            Defaults to 'whole'.
        error_feedback (bool): Whether the changes of the shared part that are left
            out are added in the next round. Defaults to False.

    Raises:
        ValueError: If an argument is out of range.
    """

    uses_reference = True

    def __init__(self, share: float = 0.25, new_holders: str = 'whole', error_feedback: bool = False) -> None:
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise ValueError(f'codec.share must be above 0 and at most 1, got {share!r}')
        if new_holders not in ('whole', 'largest'):
            raise ValueError(f"codec.new_holders must be 'whole' or 'largest', got {new_holders!r}")
        if not isinstance(error_feedback, bool):
            raise ValueError(f'codec.error_feedback must be True or False, got {error_feedback!r}')
        self.share = share
        self.whole_for_new_holders = new_holders == 'whole'
        self.feeds_errors_back = error_feedback

    def _kept(self, numel: int) -> int:
        return min(numel, max(1, round(self.share * numel)))

    def message_bytes(self, numel: int) -> int:
        """One bit for every number, and 4 bytes for every number that is kept."""
        return -(-numel // 8) + 4 * self._kept(numel)

    def scratch_bytes(self, numel: int) -> int:
        """Changes, their magnitudes, positions of the largest; and the mask, which is packed piece by piece."""
        return 9 * numel + 20 * self._kept(numel) + 24 * PIECE

    def encode(self, tensor: Tensor, reference: Tensor | None = None) -> Tensor:
        """Select the largest changes."""
        changes = tensor.float() if reference is None else tensor.float() - reference.float()
        kept = changes.abs().topk(self._kept(tensor.numel()), sorted=False).indices.sort().values
        mask = torch.zeros(-(-tensor.numel() // 8) * 8, dtype=torch.uint8, device=tensor.device)
        mask[kept] = 1
        return torch.cat([pack_bits(mask, 1), changes[kept].view(torch.uint8)])

    def decode(self, message: Tensor, out: Tensor, reference: Tensor | None = None) -> None:
        """Add the changes to the reference."""
        mask_bytes = -(-out.numel() // 8)
        packed, values = message.split([mask_bytes, message.numel() - mask_bytes])
        kept = unpack_bits(packed, 1)[: out.numel()].nonzero().view(-1)
        changes = values.clone().view(torch.float32).to(out.dtype)
        if reference is None:
            out.zero_()
        elif reference is not out:
            out.copy_(reference)
        out[kept] += changes
