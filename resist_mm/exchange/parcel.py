"""A tensor on its way, and the form in which it travels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import Codec

__all__ = ['Parcel']


@dataclass(frozen=True)
class Parcel:
    """A flat tensor to be sent or received.

    Without a codec it is sent from and received into its own storage.

    Attributes:
        tensor: Shape (numel,).
        codec: How it is compressed, if it is.
        reference: What sender and receivers both have; for codecs that use one.
        residual: What compression has left out so far, to be made up for in an average
            (error feedback); updated by it.
    """

    tensor: Tensor
    codec: Codec | None = None
    reference: Tensor | None = None
    residual: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Size of the message in bytes."""
        return self.tensor.nbytes if self.codec is None else self.codec.message_bytes(self.tensor.numel())

    def message(self) -> Tensor:
        """What to send."""
        if self.codec is None:
            return self.tensor
        return self.codec.encode(self.tensor, self.reference)

    def empty_message(self) -> Tensor:
        """Where to receive a message apart from the tensor."""
        if self.codec is None:
            return torch.empty_like(self.tensor)
        return torch.empty(self.nbytes, dtype=torch.uint8, device=self.tensor.device)

    def place_for_message(self) -> Tensor:
        """Where to receive a message: the tensor itself if there is no codec."""
        return self.tensor if self.codec is None else self.empty_message()

    def opened(self, message: Tensor) -> Tensor:
        """What a message says, as a new tensor."""
        out = torch.empty_like(self.tensor)
        self.open(message, out)
        return out

    def open(self, message: Tensor, out: Tensor) -> None:
        """Write what a message says into ``out``, shaped as the tensor."""
        if self.codec is not None:
            self.codec.decode(message, out, self.reference)
        elif message is not out:
            out.copy_(message)

    def shard(self, low: int, high: int) -> Parcel:
        """The part from one position up to another, as a parcel of its own."""
        reference = None if self.reference is None else self.reference[low:high]
        return Parcel(self.tensor[low:high], self.codec, reference)
