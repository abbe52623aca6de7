"""What travels with a part: its weights, what optimizers remember of them, running statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from resist_mm.exchange.codec import Codec
from resist_mm.exchange.memory import empty_flat
from resist_mm.exchange.message import Form, Payload

from .part import Part, statistics_of

__all__ = ['RunningStatistics', 'TravellingState', 'Weights', 'pack', 'unpack']


class TravellingState:
    """Something that every worker keeps for a part, and that travels with it.

    At the end of a round it becomes the mean over the part's holders, and its new holders get that. A new kind
    is a subclass that says which tensors a part has, and their sizes; as long as values are numbers of
    which a mean makes sense, this is all. Its objects are given to the :class:`Engine`, or named by
    a protocol.

    Attributes:
        makes_copies: Whether :meth:`tensors` returns tensors of its own, that may be written to.
    """

    makes_copies = False

    def travels(self, round_index: int, whole: bool) -> bool:
        """Whether it travels at the end of a round; ``whole``: the model is made whole then."""
        return True

    def prepare(self) -> None:
        """Called by all workers before an exchange in which it travels; may send messages."""

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """Number of elements and dtype of each tensor of a part, held or not; the same on all workers."""
        raise NotImplementedError

    def tensors(self, part: Part) -> list[Tensor]:
        """The tensors of a part that this worker holds, flat."""
        raise NotImplementedError

    def get_ready(self, part: Part) -> None:
        """Allocate whatever :meth:`commit` needs, which must not fail."""

    def roll_back(self) -> None:
        """Called when the exchange is refused: undo :meth:`get_ready`."""

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Put new values in place, as :meth:`tensors` would return them. Sends nothing."""
        raise NotImplementedError

    def nbytes(self, part: Part) -> int:
        """Size of what a part has, in bytes, held or not."""
        return sum(numel * dtype.itemsize for numel, dtype in self.sizes(part))

    def restart(self) -> None:
        """Called after an exchange in which it did not travel."""

    def forget(self, part: Part) -> None:
        """Called when this worker drops a part."""

    def payloads(self, part: Part, device: torch.device, exact: bool, all_have_reference: bool) -> list[Payload]:
        """The form of a part's messages.

        Args:
            part (Part): The part.
            device (torch.device): That of the model.
            exact (bool): Whether nothing may be compressed.
            all_have_reference (bool): Whether all who get the part had it in this round.
        """
        return [Payload(numel, dtype, device) for numel, dtype in self.sizes(part)]

    def load(self, part: Part, payloads: Sequence[Payload]) -> None:
        """Give the payloads of a part that this worker holds their values."""
        for payload, tensor in zip(payloads, self.tensors(part), strict=True):
            payload.value = tensor

    def make_room(self, part: Part, payloads: Sequence[Payload], averaged: bool) -> None:
        """Allocate where the result of an exchange goes."""
        for payload in payloads:
            # an average replaces a copy in place
            payload.staged = payload.value if averaged and self.makes_copies else payload.make_room()

    def settle(self, part: Part, payloads: Sequence[Payload]) -> None:
        """Put the results of an exchange in place."""
        if any(payload.staged is not None for payload in payloads):
            self.commit(part, [payload.result for payload in payloads])


class Weights(TravellingState):
    """The trainable parameters of a part; they are sent from, and received as, its flat storage.

    A codec compresses the weights of convolutions and linear layers only. Norms and biases, a thousandth of
    the whole, travel as they are.

    Args:
        codec (Codec, optional): How weights are compressed from round to round. Making the model whole is always
            exact. Defaults to None: fp32.
    """

    def __init__(self, codec: Codec | None = None) -> None:
        self.codec = codec

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """One tensor, or none."""
        return [] if part.flat is None else [(part.flat.numel, part.flat.dtype)]

    def tensors(self, part: Part) -> list[Tensor]:
        """The flat storage."""
        return [] if part.flat is None else [part.flat.flat]

    def payloads(self, part: Part, device: torch.device, exact: bool, all_have_reference: bool) -> list[Payload]:
        """Weights, then norms and biases if weights are compressed."""
        if part.flat is None:
            return []
        numel, weights = part.flat.numel, part.flat.num_weights
        if self.codec is None or exact or not weights:
            return [Payload(numel, part.flat.dtype, device)]
        reference = None if part.reference is None else part.reference[:weights]
        delivered = Form(self.codec, reference if all_have_reference else None)
        if self.codec.whole_for_new_holders and not all_have_reference:
            delivered = Form()
        payloads = [Payload(weights, part.flat.dtype, device, Form(self.codec, reference), delivered)]
        if weights < numel:
            payloads.append(Payload(numel - weights, part.flat.dtype, device))
        return payloads

    def load(self, part: Part, payloads: Sequence[Payload]) -> None:
        """Views of the flat storage; before an exact exchange, what compression left out is added."""
        if not payloads:
            return
        (value,) = self.tensors(part)
        compressed = payloads[0].gathered.codec is not None
        if part.residual is not None:
            if compressed:
                payloads[0].residual = part.residual
            else:
                value = value.clone()
                value[: part.residual.numel()] += part.residual
                payloads[0].staged_residual = torch.zeros_like(part.residual)
        _split(payloads, value, 'value')

    def make_room(self, part: Part, payloads: Sequence[Payload], averaged: bool) -> None:
        """New flat storage; the payloads get views of it."""
        if payloads:
            first = payloads[0]
            part.staged = empty_flat(sum(p.numel for p in payloads), first.dtype, first.device)
            _split(payloads, part.staged, 'staged')

    def settle(self, part: Part, payloads: Sequence[Payload]) -> None:
        """Nothing is copied: :class:`Parts` puts the staged storage in place."""
        for payload in payloads:
            if payload.staged_residual is not None:
                part.residual = payload.staged_residual


class RunningStatistics(TravellingState):
    """Running means and variances of the norms that are updating them (``bn='average'``).

    Args:
        interval (int, optional): They travel every so many rounds, and whenever the model is made whole.
            Defaults to None: never.
    """

    makes_copies = True

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval

    def travels(self, round_index: int, whole: bool) -> bool:
        """In every ``interval``-th round, and with the whole model."""
        return self.interval is not None and (whole or (round_index + 1) % self.interval == 0)

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """One tensor, or none."""
        statistics = statistics_of(part.norms)
        return [(sum(t.numel() for t in statistics), statistics[0].dtype)] if statistics else []

    def tensors(self, part: Part) -> list[Tensor]:
        """All of them, packed."""
        statistics = statistics_of(part.norms)
        return [pack(statistics)] if statistics else []

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Unpack them."""
        for message in tensors:
            unpack(statistics_of(part.norms), message)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors of one dtype into one flat tensor."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def unpack(tensors: Sequence[Tensor], message: Tensor) -> None:
    """Copy a flat tensor back into the tensors that it was packed from."""
    for tensor, piece in zip(tensors, message.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def _split(payloads: Sequence[Payload], flat: Tensor, attribute: str) -> None:
    for payload, piece in zip(payloads, flat.split([p.numel for p in payloads]), strict=True):
        setattr(payload, attribute, piece)
