"""What a worker falls back on whose round does not count."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from resist_mm.exchange import Payload
from resist_mm.exchange.memory import empty_flat
from resist_mm.partition import Assignment

from .optimizer_state import OptimizerState
from .part import Part, Parts
from .states import RunningStatistics, TravellingState, Weights

__all__ = ['Remaining', 'RoundStart']


class Remaining(Assignment):
    """Whose copies are left of an assignment, once those of some workers do not count.

    In means those workers have no share. A block that only they held is left to one of them, which supplies
    what it had at the start of the round.

    Args:
        dealt (Assignment): Who held which blocks.
        following (Assignment): Who will.
        bad (Collection[int]): The workers that do not count; not all.
    """

    def __init__(self, dealt: Assignment, following: Assignment, bad: Collection[int]) -> None:
        left = [list(dealt.blocks(w)) if dealt.is_full or w not in bad else [] for w in range(dealt.num_workers)]
        for block in range(dealt.num_blocks):
            holders = dealt.holders(block)
            if not dealt.is_full and set(holders) <= set(bad):
                # one that keeps it saves a message
                keepers = [worker for worker in holders if worker in following.holders(block)]
                left[(keepers or holders)[0]].append(block)
        super().__init__(left, dealt.num_blocks)
        weights = dealt.weights or (1.0,) * dealt.num_workers
        self._counts = [0.0 if worker in bad else weight for worker, weight in enumerate(weights)]

    def shares(self, workers: Sequence[int] | None = None) -> list[float]:
        """The share of each worker in a mean over the given ones; see :meth:`Assignment.shares`."""
        counts = [self._counts[worker] for worker in (range(self.num_workers) if workers is None else workers)]
        return [count / sum(counts) for count in counts]


class RoundStart:
    """What is kept of a round's start: references of weights, and copies of whatever else travels.

    Who can go back to it has both: optimizers start afresh, and of everything else, running statistics and moving
    averages among it, a copy is kept.

    Args:
        parts (Parts): Of this worker.
        states (Sequence[TravellingState]): Everything that may travel.
        references (bool): Whether parts keep a reference.
        copies (bool): Whether a worker can go back; takes references.
    """

    def __init__(self, parts: Parts, states: Sequence[TravellingState], references: bool, copies: bool) -> None:
        self.parts, self.states = parts, states
        self.references, self.copies = references, copies
        self._kept: dict[tuple[TravellingState, Part], list[Tensor]] = {}
        self._rooms: dict[tuple[TravellingState, Part], list[Tensor]] = {}

    def make_room(self, blocks: Collection[int]) -> None:
        """Allocate what :meth:`remember` will need for the shared part and blocks."""
        if self.references:
            self.parts.make_room_for_references(blocks)
        for part in self.parts.held_with(blocks):
            for state in self._copied():
                rooms, sizes = self._kept.get((state, part)), state.sizes(part)
                if rooms is None or [(room.numel(), room.dtype) for room in rooms] != sizes:
                    device = self.parts.device
                    self._rooms[state, part] = [empty_flat(numel, dtype, device) for numel, dtype in sizes]

    def drop_unused_room(self) -> None:
        """Undo :meth:`make_room`."""
        self.parts.drop_unused_room()
        self._rooms.clear()

    @torch.no_grad()
    def remember(self) -> None:
        """Copy what this worker holds, as a round begins."""
        if self.references:
            for part in self.parts.all:
                part.remember()
        if not self.copies:
            return
        held = [part for part in self.parts.all if part.held]
        if not self._rooms:  # the round begins from the whole model
            self.make_room([part.block for part in held if part.block is not None])
        rooms_of = {**self._kept, **self._rooms}
        self._kept = {(state, part): rooms_of[state, part] for part in held for state in self._copied()}
        self._rooms = {}
        for (state, part), rooms in self._kept.items():
            for room, tensor in zip(rooms, state.tensors(part), strict=True):
                room.copy_(tensor)

    @property
    def nbytes(self) -> int:
        """Size of references and copies, in bytes."""
        references = [part.reference for part in self.parts.all if part.reference is not None]
        return sum(t.nbytes for tensors in (references, *self._kept.values()) for t in tensors)

    def is_finite(self, states: Sequence[TravellingState]) -> bool:
        """Whether a worker can go back, and what is kept of some states has no bad number."""
        if not self.copies:
            return False
        weights = [part.reference for part in self.parts.all if part.reference is not None]
        kept = [tensor for (state, _), tensors in self._kept.items() if state in states for tensor in tensors]
        return all(bool(tensor.isfinite().all()) for tensor in [*weights, *kept])

    def has(self, block: int) -> bool:
        """Whether the block goes back to what it was: all do that this worker has."""
        return True

    def load(self, state: TravellingState, part: Part, payloads: Sequence[Payload]) -> None:
        """As :meth:`TravellingState.load`, with the values from when the round began."""
        tensors = self._of(state, part)
        # a copy may be averaged in place
        state.load(part, payloads, [t.clone() for t in tensors] if state.makes_copies else tensors)

    def restore(self) -> None:
        """Put all running statistics back; those that travel are about to be replaced. Own momentum restarts.

        They stay with a worker that drops the block, and are there again when it gets the block back.
        """
        for state in self.states:
            if isinstance(state, OptimizerState):
                state.restart_own()
        for (state, part), tensors in self._kept.items():
            if isinstance(state, RunningStatistics) and sum(t.numel() for t in tensors) == _numel(state, part):
                state.commit(part, tensors)

    def _copied(self) -> list[TravellingState]:
        return [s for s in self.states if self.copies and not isinstance(s, Weights | OptimizerState)]

    def _of(self, state: TravellingState, part: Part) -> list[Tensor]:
        if isinstance(state, Weights):
            return [] if part.reference is None else [part.reference]
        if isinstance(state, OptimizerState):
            return [torch.zeros(n, dtype=dtype, device=self.parts.device) for n, dtype in state.sizes(part)]
        return self._kept[state, part]


def _numel(state: TravellingState, part: Part) -> int:
    return sum(numel for numel, _ in state.sizes(part))
