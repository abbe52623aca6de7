"""The results of an exchange, kept beside the current values until all workers have accepted them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from resist_mm.exchange.memory import return_freed_memory
from resist_mm.exchange.message import Payload
from resist_mm.exchange.plan import ExchangePlan
from resist_mm.exchange.wire import shard_bounds

from .part import Part, Parts
from .round_start import RoundStart
from .states import TravellingState, Weights

if TYPE_CHECKING:
    from .copies import Restored
    from .overlap import Overlap

__all__ = ['StagedExchange']


class StagedExchange:
    """The payloads of an exchange on one worker.

    Constructing it drops gradients, and allocates room, which takes their memory, for everything that will be
    received or averaged. :meth:`commit` swaps pointers, so that it cannot fail half-way;
    :meth:`let_go` frees the room and leaves every value as it was.

    Args:
        rank (int): This worker.
        parts (Parts): Its parts.
        states (Sequence[TravellingState]): What travels with each part.
        changes_means (bool): Whether the protocol may change a mean; if so, a mean is staged even if it is the
            value of a single holder.
        plan (ExchangePlan): The same on all workers.
        exact (bool): Whether compression is off.
        undone (optional): Where to load values from instead, if this worker's round does not count, or it has
            copies of what a lost worker held. Defaults to None.
        ahead (Overlap, optional): What has been averaged already. Defaults to None: nothing.

    Raises:
        ValueError: If the model's parameters are others than when training began.
    """

    def __init__(
        self,
        rank: int,
        parts: Parts,
        states: Sequence[TravellingState],
        changes_means: bool,
        plan: ExchangePlan,
        exact: bool,
        undone: RoundStart | Restored | None = None,
        ahead: Overlap | None = None,
    ) -> None:
        self.plan, self.rank, self.parts, self.states = plan, rank, parts, states
        self.changes_means, self.exact, self.undone = changes_means, exact, undone
        self.ahead = ahead if ahead is not None and ahead.under_way else None
        parts.check_trainable()
        if plan.old.num_workers > 1 and parts.drop_gradients():
            return_freed_memory(parts.device)
        device = parts.device
        self._payloads: dict[Part, list[list[Payload]]] = {}  # of a part: a list for each state
        try:
            for part in parts.all:
                all_have_reference = part.block is None or plan.all_have_old_value(part.block)
                self._payloads[part] = [
                    self.ahead.stage(part)
                    if self.ahead is not None and self._came_ahead(part, s)
                    else s.payloads(part, device, exact, all_have_reference)
                    for s in states
                ]
                self._stage(part)
        except BaseException:
            self.let_go()
            raise

    def shared(self) -> list[Payload]:
        """The payloads of the shared part, but for what has been averaged already."""
        # the weights of all shared parts come first, then the next state
        return [
            payload
            for i, state in enumerate(self.states)
            for part in self.parts.shared
            if not self._came_ahead(part, state)
            for payload in self._of(part)[i]
        ]

    def block(self, block: int) -> list[Payload]:
        """The payloads of a block."""
        return [payload for of_state in self._of(self.parts.blocks[block]) for payload in of_state]

    def gathered_bytes(self) -> list[int]:
        """Size of each block's messages to its aggregating worker, in bytes, held or not."""
        return [sum(p.gathered_bytes for p in self.block(block)) for block in range(self.parts.num_blocks)]

    def delivered_bytes(self) -> list[int]:
        """Size of each block's messages to a new holder, in bytes, held or not."""
        return [sum(p.delivered_bytes for p in self.block(block)) for block in range(self.parts.num_blocks)]

    @property
    def nbytes(self) -> int:
        """Size of the room that was allocated, in bytes."""
        return sum(
            p.nbytes
            for of_part in self._payloads.values()
            for of_state in of_part
            for p in of_state
            if p.staged is not None and p.staged is not p.value
        )

    def of_states(self, part: Part) -> list[tuple[TravellingState, list[Payload]]]:
        """What travels of a part, by state."""
        return list(zip(self.states, self._of(part), strict=True))

    def averaged_parts(self) -> list[Part]:
        """The parts whose mean is the same on all workers."""
        return [*self.parts.shared, *(self.parts.blocks[block] for block in self.plan.averaged)]

    def goes_back(self, part: Part) -> bool:
        """Whether a part gets its value from the start of the round: only workers that do not count held it."""
        if part.block is None or self.undone is None or not self.undone.has(part.block):
            return False
        return part.block not in self.plan.averaged or self.plan.old.num_workers == 1

    @property
    def compresses(self) -> bool:
        """Whether a codec compresses anything."""
        payloads = (p for of_part in self._payloads.values() for of_state in of_part for p in of_state)
        return any(p.gathered.codec is not None or p.delivered.codec is not None for p in payloads)

    def to_be_looked_at(self, part: Part) -> list[Tensor]:
        """Results of which this worker has to see that they are finite; some worker does of every number.

        Of what all workers average that is a piece, else all of a block that this worker aggregates.
        """
        pieces = []
        for state, payloads in zip(self.states, self._of(part), strict=True):
            if part.block is None or part.block in self.plan.averaged:
                for payload in payloads:
                    low, high = shard_bounds(payload.numel, self.plan.old.num_workers)[self.rank]
                    pieces.append(payload.result[low:high])
                if self._came_ahead(part, state):
                    pieces += state.checked(part)  # what this worker has trained since
            elif any(payload.value is None for payload in payloads):
                pieces += state.checked(part)  # of its only holder, who keeps it: nothing is staged
            else:
                pieces += [payload.result for payload in payloads]
        return pieces

    def get_ready(self) -> None:
        """Do whatever else may fail before :meth:`commit`."""
        for part, of_part in self._committed():
            for state, payloads in zip(self.states, of_part, strict=True):
                if self.ahead is not None and self._came_ahead(part, state):
                    self.ahead.correct(part)
                if any(payload.staged is not None for payload in payloads):
                    state.get_ready(part, [payload.result for payload in payloads])

    def commit(self) -> None:
        """Put all results in place; the old values are freed."""
        if self.undone is not None:
            self.undone.restore()
        for part, of_part in self._committed():
            if self.ahead is not None and any(self._came_ahead(part, state) for state in self.states):
                self.parts.put(part, self.ahead.commit(part))
            elif part.staged is not None:
                self.parts.put(part, part.staged)
            for state, payloads in zip(self.states, of_part, strict=True):
                state.settle(part, payloads)
        self.let_go()

    def let_go(self) -> None:
        """Let go of all results; what has not been committed is discarded, and its old value stays."""
        for part in self.parts.all:
            part.staged = None
        self._payloads.clear()

    def _committed(self) -> list[tuple[Part, list[list[Payload]]]]:
        mine = set(self.plan.new.blocks(self.rank)) | set(self.plan.averaged)
        return [(part, of) for part, of in self._payloads.items() if part.block is None or part.block in mine]

    def _of(self, part: Part) -> list[list[Payload]]:
        return self._payloads[part]

    def _stage(self, part: Part) -> None:
        """Load what this worker sends or aggregates; allocate room for what it receives or averages."""
        for state, payloads in zip(self.states, self._of(part), strict=True):
            if self._came_ahead(part, state):
                continue
            if part.block is None or part.block in self.plan.averaged:
                self._load(state, part, payloads)
                # a worker that is left alone has copies to take
                if self.plan.old.num_workers > 1 or self._changes_mean(state) or self.undone is not None:
                    state.make_room(part, payloads, averaged=True)
            else:
                self._stage_block(part, part.block, state, payloads)

    def _stage_block(self, part: Part, block: int, state: TravellingState, payloads: Sequence[Payload]) -> None:
        old, new = self.plan.old.holders(block), self.plan.new.holders(block)
        aggregates = self.plan.aggregators[block] == self.rank
        delivers = aggregates and any(holder != self.rank for holder in new)
        stages_value = self._changes_mean(state) or self.undone is not None
        if self.rank in old and (not aggregates or delivers or len(old) > 1 or stages_value):
            self._load(state, part, payloads)
        if (aggregates and len(old) > 1) or (not aggregates and self.rank in new):
            state.make_room(part, payloads, averaged=False)
        elif aggregates:
            # a single holder keeps its value, unless it decodes the message that it sends, as its receivers do
            decoded = delivers and self.rank in new and any(p.delivered.codec is not None for p in payloads)
            if decoded or stages_value:
                state.make_room(part, payloads, averaged=False)
                for payload in payloads:
                    assert payload.staged is not None and payload.value is not None
                    payload.staged.copy_(payload.value)

    def _load(self, state: TravellingState, part: Part, payloads: Sequence[Payload]) -> None:
        if self.undone is None:
            state.load(part, payloads)
        else:
            self.undone.load(state, part, payloads)

    def _came_ahead(self, part: Part, state: TravellingState) -> bool:
        return self.ahead is not None and self.ahead.has(part, state)

    def _changes_mean(self, state: TravellingState) -> bool:
        return self.changes_means and isinstance(state, Weights)
