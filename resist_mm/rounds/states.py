"""What travels with a part: its weights, its running statistics, and the base class for anything else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from resist_mm.exchange.codec import Codec
from resist_mm.exchange.memory import empty_flat
from resist_mm.exchange.message import Form, Payload

from .part import Part, named_statistics, statistics_of

__all__ = ['RunningStatistics', 'TravellingState', 'Weights', 'pack', 'unpack']


class TravellingState:
    """Something that every worker keeps for a part, and that travels with it.

    At the end of a round it becomes the mean over the part's old holders, and the new holders get that mean. A
    new kind is a subclass that implements :meth:`sizes`, :meth:`tensors` and :meth:`commit`; that is all, as long
    as a mean of the values makes sense. Instances are passed to the :class:`Engine`, or named by a protocol.

    Attributes:
        makes_copies: Whether :meth:`tensors` returns copies, which may be overwritten.
    """

    makes_copies = False

    def travels(self, round_index: int, whole: bool) -> bool:
        """Whether it travels at the end of a round; ``whole`` says that the model is made whole."""
        return True

    def prepare(self) -> Any:
        """Called on all workers before an exchange in which it travels. Must not communicate.

        Returns:
            Any: What the other workers have to know, something that can be pickled; None: nothing new.
        """

    def learn(self, told: Sequence[Any]) -> None:
        """Called on all workers if :meth:`prepare` had news on one of them. Must not communicate.

        Args:
            told (Sequence): What :meth:`prepare` returned on each worker, by rank.
        """

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """Number of elements and dtype of each of a part's tensors, held or not; the same on all workers."""
        raise NotImplementedError

    def tensors(self, part: Part) -> list[Tensor]:
        """The flat tensors of a part that this worker holds."""
        raise NotImplementedError

    def checked(self, part: Part) -> list[Tensor]:
        """What has to be finite of a part that this worker holds: the cheapest tensors that show it."""
        return self.tensors(part)

    def named_tensors(self, part: Part, names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
        """The same, in pieces that a message to the user can name.

        Args:
            part (Part): The part.
            names (Mapping): The name of every parameter and module of the model.
        """
        for tensor in self.checked(part):
            yield type(self).__name__, tensor

    def get_ready(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Do whatever may fail before :meth:`commit` with the same arguments, such as allocating memory."""

    def get_ready_to_restart(self, part: Part) -> None:
        """Do whatever may fail before :meth:`restart`, for a part that this worker will hold."""

    def roll_back(self) -> None:
        """Called when the exchange is rolled back: undo :meth:`get_ready` and :meth:`get_ready_to_restart`."""

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Put new values, in the form of :meth:`tensors`, in place. Must neither communicate nor fail."""
        raise NotImplementedError

    def restart(self) -> None:
        """Called after an exchange in which it did not travel. Must not fail."""

    def forget(self, part: Part) -> None:
        """Called when this worker drops a part. Must not fail."""

    def become_whole(self) -> None:
        """Called after an exchange that has made the model whole. Must not fail."""

    def payloads(self, part: Part, device: torch.device, exact: bool, all_have_reference: bool) -> list[Payload]:
        """The payloads of a part, without values.

        Args:
            part (Part): The part.
            device (torch.device): Device of the model.
            exact (bool): Whether compression is off.
            all_have_reference (bool): Whether all workers that will hold the part hold it in this round too.
        """
        return [Payload(numel, dtype, device) for numel, dtype in self.sizes(part)]

    def load(self, part: Part, payloads: Sequence[Payload], instead: Sequence[Tensor] | None = None) -> None:
        """Set the values of the payloads of a part that this worker holds.

        Args:
            part (Part): The part.
            payloads (Sequence[Payload]): Its payloads.
            instead (Sequence[Tensor], optional): What to load, in the form of :meth:`tensors`. Defaults to None:
                what this worker has.
        """
        tensors = self.tensors(part) if instead is None else instead
        for payload, tensor in zip(payloads, tensors, strict=True):
            payload.value = tensor

    def make_room(self, part: Part, payloads: Sequence[Payload], averaged: bool) -> None:
        """Allocate room for the results of an exchange."""
        for payload in payloads:
            # a copy may be averaged in place
            payload.staged = payload.value if averaged and self.makes_copies else payload.make_room()

    def settle(self, part: Part, payloads: Sequence[Payload]) -> None:
        """Put the results of an exchange in place."""
        if any(payload.staged is not None for payload in payloads):
            self.commit(part, [payload.result for payload in payloads])


class Weights(TravellingState):
    """The trainable parameters of a part, sent from its flat storage and received into new flat storage.

    A codec compresses only the weights of convolutions and linear layers. Norms and biases, a thousandth of
    the whole, travel uncompressed.

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
        """One payload; if weights are compressed, a second one for norms and biases."""
        if part.flat is None:
            return []
        numel, weights = part.flat.numel, part.flat.num_weights
        if self.codec is None or exact or not weights:
            return [Payload(numel, part.flat.dtype, device)]
        reference = None if part.reference is None else part.reference[:weights]
        delivered = Form(self.codec, reference) if all_have_reference else Form(self.codec.of_new_holders())
        payloads = [Payload(weights, part.flat.dtype, device, Form(self.codec, reference), delivered)]
        if weights < numel:
            payloads.append(Payload(numel - weights, part.flat.dtype, device))
        return payloads

    def named_tensors(self, part: Part, names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
        """The parameters."""
        for p in part.params:
            yield names[p], p

    def load(self, part: Part, payloads: Sequence[Payload], instead: Sequence[Tensor] | None = None) -> None:
        """Views of the flat storage; in an exact exchange, what compression has left out is added."""
        if not payloads:
            return
        (value,) = self.tensors(part) if instead is None else instead
        compressed = payloads[0].gathered.codec is not None
        if part.residual is not None:
            if compressed:
                payloads[0].residual = part.residual
            else:
                if instead is None:
                    value = value.clone()
                    value[: part.residual.numel()] += part.residual
                payloads[0].staged_residual = torch.zeros_like(part.residual)
        _split(payloads, value, 'value')

    def make_room(self, part: Part, payloads: Sequence[Payload], averaged: bool) -> None:
        """Allocate new flat storage; the payloads get views of it."""
        if payloads:
            first = payloads[0]
            part.staged = empty_flat(sum(p.numel for p in payloads), first.dtype, first.device)
            _split(payloads, part.staged, 'staged')

    def settle(self, part: Part, payloads: Sequence[Payload]) -> None:
        """Replace the residual. The weights need no copy: :class:`Parts` puts the staged storage in place."""
        for payload in payloads:
            if payload.staged_residual is not None:
                part.residual = payload.staged_residual


class RunningStatistics(TravellingState):
    """Running means and variances of the norms that are updating them (``bn='average'``).

    Args:
        interval (int, optional): Number of rounds after which they travel; they also do whenever the model is made
            whole. Defaults to None: they never travel.
    """

    makes_copies = True

    def __init__(self, interval: int | None = None) -> None:
        self.interval = interval

    def travels(self, round_index: int, whole: bool) -> bool:
        """Whether they travel: in every ``interval``-th round, and when the model is made whole."""
        return self.interval is not None and (whole or (round_index + 1) % self.interval == 0)

    def sizes(self, part: Part) -> list[tuple[int, torch.dtype]]:
        """One tensor, or none."""
        statistics = statistics_of(part.norms)
        if not statistics:
            return []
        return [(sum(t.numel() for t in statistics), reduce(torch.promote_types, (t.dtype for t in statistics)))]

    def tensors(self, part: Part) -> list[Tensor]:
        """All statistics, packed into one tensor."""
        statistics = statistics_of(part.norms)
        return [pack(statistics)] if statistics else []

    def checked(self, part: Part) -> list[Tensor]:
        """The statistics, unpacked."""
        return statistics_of(part.norms)

    def named_tensors(self, part: Part, names: Mapping[Any, str]) -> Iterator[tuple[str, Tensor]]:
        """By norm."""
        return named_statistics(part.norms, names)

    def commit(self, part: Part, tensors: Sequence[Tensor]) -> None:
        """Unpack them into the norms."""
        for message in tensors:
            unpack(statistics_of(part.norms), message)


def pack(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors into one flat tensor, of the smallest dtype that holds all of them."""
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


@torch.no_grad()
def unpack(tensors: Sequence[Tensor], message: Tensor) -> None:
    """Copy a flat tensor back into the tensors that it was packed from."""
    for tensor, piece in zip(tensors, message.split([t.numel() for t in tensors]), strict=True):
        tensor.copy_(piece.view_as(tensor))


def _split(payloads: Sequence[Payload], flat: Tensor, attribute: str) -> None:
    for payload, piece in zip(payloads, flat.split([p.numel for p in payloads]), strict=True):
        setattr(payload, attribute, piece)
