"""A tensor in an exchange: how it is sent, and where the result goes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .codec import Codec
from .memory import empty_flat
from .wire import message_bytes

__all__ = ['Form', 'Payload', 'try_codec']

TRIED = 1001  # numbers: a length that suits no grouping


@dataclass(frozen=True)
class Form:
    """How the messages of a tensor are encoded.

    Attributes:
        codec: How it is compressed; None: it is sent uncompressed.
        reference: A tensor of shape (numel,) that both the sender and the receivers have, for codecs that use one.
    """

    codec: Codec | None = None
    reference: Tensor | None = None

    def encode(self, tensor: Tensor) -> Tensor:
        """The message to send: the tensor itself if there is no codec.

        Raises:
            ValueError: If the codec makes another message than it has announced, which nobody could receive.
        """
        if self.codec is None:
            return tensor
        message = self.codec.encode(tensor, self.reference)
        announced = self.codec.message_bytes(tensor.numel())
        if message.dtype != torch.uint8 or message.shape != (announced,):
            raise ValueError(
                f'the codec {type(self.codec).__name__} encodes {tensor.numel()} numbers as {message.dtype} of '
                f'shape {tuple(message.shape)}, but its message_bytes says torch.uint8 of shape ({announced},)'
            )
        return message

    def decode(self, message: Tensor, out: Tensor) -> None:
        """Decode a message into ``out``."""
        if self.codec is not None:
            self.codec.decode(message, out, self.reference)
        elif message is not out:
            out.copy_(message)

    def shard(self, low: int, high: int) -> Form:
        """The form of the elements from ``low`` up to, but not including, ``high``."""
        return Form(self.codec, None if self.reference is None else self.reference[low:high])


@torch.no_grad()
def try_codec(codec: Codec, device: torch.device) -> None:
    """Encode and decode a few numbers before anything is under way; random state is as before afterwards.

    Raises:
        ValueError: If the codec makes another message than it has announced.
    """
    form, numbers = Form(codec), torch.linspace(-1, 1, TRIED, device=device)
    with torch.random.fork_rng(devices=[device] if device.type == 'cuda' else []):
        form.decode(form.encode(numbers), torch.empty_like(numbers))


class Payload:
    """One flat tensor of a part of the network, in an exchange.

    ``value`` is only read. The result of the exchange is written to ``staged``, so that nothing is lost until the
    exchange is accepted.

    Args:
        numel (int): Number of elements; the same on all workers, whether they hold it or not.
        dtype (torch.dtype): Its dtype.
        device (torch.device): Its device.
        gathered (Form, optional): The form of messages to the aggregating worker, and of averages. Defaults to
            None: uncompressed.
        delivered (Form, optional): The form of messages to the new holders. Defaults to None: as ``gathered``.

    Attributes:
        value: This worker's value, of shape (numel,); None if it does not hold the tensor or is not involved.
        staged: Where the result goes, of shape (numel,); None if the value does not change.
        residual: What compression has left out so far; added to ``value`` before it is averaged (error feedback).
        staged_residual: What compression leaves out in this exchange.
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
        """The value after the exchange."""
        result = self.value if self.staged is None else self.staged
        assert result is not None, 'this worker has no part in it'
        return result

    def make_room(self) -> Tensor:
        """Allocate room for the result, unless that has been done."""
        if self.staged is None:
            self.staged = empty_flat(self.numel, self.dtype, self.device)
        return self.staged

    def empty_message(self, form: Form) -> Tensor:
        """Allocate room for a message."""
        if form.codec is None:
            return empty_flat(self.numel, self.dtype, self.device)
        return torch.empty(form.codec.message_bytes(self.numel), dtype=torch.uint8, device=self.device)
