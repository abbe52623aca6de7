"""What one worker sends and receives in one exchange."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from resist_mm.exchange import ExchangePlan, Parcel
from resist_mm.exchange.codec import Codec, TopK
from resist_mm.models.flat_parameters import FlatParameters

from .optimizer_state import StateEntry
from .packing import pack, unpack
from .worker_state import WorkerState, statistics_of

__all__ = ['Cargo', 'Compression']

_Unpack = Callable[[Tensor], None]


class Compression:
    """How a worker compresses, and what it has to remember for that.

    Only weights of convolutions and linear layers are compressed; norms, biases,
    momentum and statistics, a thousandth of the whole, are not.

    Args:
        worker (WorkerState): The tensors of this worker.
        codec (Codec, optional): The form of messages. None: as they are.

    Attributes:
        references: Copies of weights as they were when the round began, for codecs
            that send changes: those of the shared part and of the held blocks.
        residuals: What compression of the shared part has left out so far.
    """

    def __init__(self, worker: WorkerState, codec: Codec | None) -> None:
        self.worker = worker
        self.codec = codec
        self.references: dict[int, Tensor] = {}
        self.residuals: dict[int, Tensor] = {}
        if isinstance(codec, TopK) and codec.error_feedback:
            self.residuals = {id(flat): _weights(flat).new_zeros(flat.num_weights) for flat in worker.shared}

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered."""
        return sum(tensor.nbytes for tensor in (*self.references.values(), *self.residuals.values()))

    def remember(self) -> None:
        """Take copies of what every holder has alike now, as a round begins."""
        if self.codec is not None and self.codec.uses_reference:
            flats = [*self.worker.shared, *map(self.worker.flat_block, range(self.worker.num_blocks))]
            self.references = {id(f): _weights(f).clone() for f in flats if not f.released}

    def settle(self) -> None:
        """Add what has been left out so far: an exchange without compression follows."""
        for flat in self.worker.shared:
            if id(flat) in self.residuals:
                _weights(flat).add_(self.residuals[id(flat)])
                self.residuals[id(flat)].zero_()


class Cargo:
    """What travels in one exchange: parameters, and with them what is asked for.

    Flat parameters are sent from and received into their own storage. Optimizer
    state and running statistics are packed into one more message each, and have
    to be unpacked after the exchange.

    Args:
        worker (WorkerState): The tensors of this worker.
        momentum (bool): Whether the optimizer state travels.
        statistics (bool): Whether the running statistics of norms travel.
        compression (Compression, optional): How weights are compressed.
        plan (ExchangePlan, optional): The exchange, if blocks change hands.
    """

    def __init__(
        self,
        worker: WorkerState,
        momentum: bool,
        statistics: bool,
        compression: Compression | None = None,
        plan: ExchangePlan | None = None,
    ) -> None:
        self.worker = worker
        self.momentum = momentum
        self.statistics = statistics
        self.compression = compression
        self.plan = plan
        self._packed: dict[int | None, list[tuple[Tensor, _Unpack]]] = {}

    def shared(self) -> list[Parcel]:
        """What every worker holds."""
        parcels = [parcel for flat in self.worker.shared for parcel in self._parcels(flat, self._codec)]
        return parcels + self._extras(None)

    def gathered(self, block: int) -> list[Parcel]:
        """A block that this worker holds: all who gather it have its old value."""
        return self._parcels(self.worker.flat_block(block), self._codec) + self._extras(block)

    def delivered(self, block: int) -> list[Parcel]:
        """A block for its new holders; it gets its storage back if it was dropped."""
        if self.worker.flat_block(block).released:
            self.worker.regain(block)
        codec = self._delivery_codec(block)
        use_reference = codec is not None and codec.uses_reference and self._all_have_old_value(block)
        return self._parcels(self.worker.flat_block(block), codec, use_reference) + self._extras(block)

    def gathered_bytes(self) -> list[int]:
        """Size of every block's messages to the aggregating worker, held or not."""
        return [self._block_bytes(block, self._codec) for block in range(self.worker.num_blocks)]

    def delivered_bytes(self) -> list[int]:
        """Size of every block's messages to the new holders, held or not."""
        return [self._block_bytes(block, self._delivery_codec(block)) for block in range(self.worker.num_blocks)]

    def unpack(self) -> None:
        """Put what was packed, and has been exchanged since, back in its place."""
        for packed in self._packed.values():
            for message, put_back in packed:
                put_back(message)
        self._packed.clear()

    @property
    def _codec(self) -> Codec | None:
        return None if self.compression is None else self.compression.codec

    def _all_have_old_value(self, block: int) -> bool:
        assert self.plan is not None
        return self.plan.all_have_old_value(block)

    def _delivery_codec(self, block: int) -> Codec | None:
        codec = self._codec
        if codec is not None and codec.whole_for_new_holders and not self._all_have_old_value(block):
            return None
        return codec

    def _parcels(self, flat: FlatParameters, codec: Codec | None, use_reference: bool = True) -> list[Parcel]:
        if codec is None or not flat.num_weights:
            return [Parcel(flat.flat)]
        assert self.compression is not None
        reference = self.compression.references.get(id(flat)) if use_reference else None
        parcels = [Parcel(_weights(flat), codec, reference, self.compression.residuals.get(id(flat)))]
        if flat.num_weights < flat.numel:
            parcels.append(Parcel(flat.flat[flat.num_weights :]))
        return parcels

    def _block_bytes(self, block: int, codec: Codec | None) -> int:
        flat = self.worker.flat_block(block)
        nbytes = flat.nbytes
        if codec is not None:
            itemsize = flat.nbytes // flat.numel
            nbytes += codec.message_bytes(flat.num_weights) - flat.num_weights * itemsize
        nbytes += sum(entry.nbytes for entry in self._entries(block))
        return nbytes + sum(tensor.nbytes for tensor in self._statistics(block))

    def _extras(self, part: int | None) -> list[Parcel]:
        if part not in self._packed:
            self._packed[part] = []
            entries, statistics = self._entries(part), self._statistics(part)
            if entries:
                state = self.worker.optimizer_state
                message = state.pack(entries, self.worker.device)
                self._packed[part].append((message, partial(state.unpack, entries)))
            if statistics:
                self._packed[part].append((pack(statistics), partial(unpack, statistics)))
        return [Parcel(message) for message, _ in self._packed[part]]

    def _entries(self, part: int | None) -> list[StateEntry]:
        if not self.momentum:
            return []
        flats = self.worker.shared if part is None else [self.worker.flat_block(part)]
        return self.worker.optimizer_state.entries(pair for flat in flats for pair in flat.sizes())

    def _statistics(self, part: int | None) -> Sequence[Tensor]:
        if not self.statistics:
            return []
        return statistics_of(self.worker.shared_norms() if part is None else self.worker.norms_of_block(part))


def _weights(flat: FlatParameters) -> Tensor:
    return flat.flat[: flat.num_weights]
