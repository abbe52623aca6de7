"""A tensor on its way: what is sent of it, and where the result is put."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import Codec
from .memory import empty_flat
from .wire import message_bytes

__all__ = ['Form', 'Payload']


@dataclass(frozen=True)
class Form:
    """What the messages of a tensor look like.

    Attributes:
        codec: How it is compressed; None: it is sent as it is.
        reference: What sender and receivers both have, of shape (numel,); for codecs that use one.
    """

    codec: Codec | None = None
    reference: Tensor | None = None

    def encode(self, tensor: Tensor) -> Tensor:
        """What to send: the tensor itself if there is no codec."""
        return tensor if self.codec is None else self.codec.encode(tensor, self.reference)

    def decode(self, message: Tensor, out: Tensor) -> None:
        """Write what a message says into ``out``."""
        if self.codec is not None:
            self.codec.decode(message, out, self.reference)
        elif message is not out:
            out.copy_(message)

    def shard(self, low: int, high: int) -> Form:
        """The form of the part from one position up to another."""
        return Form(self.codec, None if self.reference is None else self.reference[low:high])


class Payload:
    """One flat tensor of a part of the network, in an exchange.

    ``value`` is only read. Whatever an exchange makes of it is written to ``staged``, so that nothing is lost
    until the exchange is accepted.

    Args:
        numel (int): Number of elements; the same on all workers, whether they hold it or not.
        dtype (torch.dtype): Its dtype.
        device (torch.device): Its device.
        gathered (Form): The form of messages to the aggregating worker, and of averages.
        delivered (Form, optional): The form of messages to the new holders. Defaults to None: the same.

    Attributes:
        value: What this worker has, of shape (numel,); None if it takes no part or lacks it.
        staged: Where the result goes, of shape (numel,); None if the value stays.
        residual: What compression has left out so far, added to ``value`` before it is averaged (error feedback).
        staged_residual: What it leaves out this time.
    """

    def __init__(
        self,
        numel: int,
        dtype: torch.dtype,
        device: torch.device,
        gathered: Form | None = None,
        delivered: Form | None = None,
    ) -> None:
        self.numel, self.dtype, self.device = numel, dtype, device
        self.gathered = gathered or Form()
        self.delivered = delivered or self.gathered
        self.value: Tensor | None = None
        self.staged: Tensor | None = None
        self.residual: Tensor | None = None
        self.staged_residual: Tensor | None = None

    @property
    def nbytes(self) -> int:
        """Size of the tensor in bytes."""
        return self.numel * self.dtype.itemsize

    @property
    def gathered_bytes(self) -> int:
        """Size of a message to the aggregating worker, in bytes."""
        return message_bytes(self.numel, self.dtype.itemsize, self.gathered.codec)

    @property
    def delivered_bytes(self) -> int:
        """Size of a message to a new holder, in bytes."""
        return message_bytes(self.numel, self.dtype.itemsize, self.delivered.codec)

    @property
    def result(self) -> Tensor:
        """What there is after the exchange."""
        result = self.value if self.staged is None else self.staged
        assert result is not None, 'this worker has no part in it'
        return result

    def make_room(self) -> Tensor:
        """Allocate the room for the result, unless there is one."""
        if self.staged is None:
            self.staged = empty_flat(self.numel, self.dtype, self.device)
        return self.staged

    def empty_message(self, form: Form) -> Tensor:
        """Room for a message."""
        if form.codec is None:
            return empty_flat(self.numel, self.dtype, self.device)
        return torch.empty(form.codec.message_bytes(self.numel), dtype=torch.uint8, device=self.device)
