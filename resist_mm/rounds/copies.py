"""Copies of blocks that a single worker holds, kept by another one until the next exchange has been accepted."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from resist_mm.exchange import ExchangePlan, Payload, Transfer, Transport
from resist_mm.partition import Assignment

from .moving_average import MovingAverage
from .part import Part, Parts
from .round_start import RoundStart
from .staging import StagedExchange
from .states import RunningStatistics, TravellingState, Weights

__all__ = ['Copies', 'Restored', 'keepers']

OfBlock = dict[TravellingState, list[Tensor]]


def keepers(dealt: Assignment, plan: ExchangePlan | None) -> list[int | None]:
    """Which worker keeps a copy of each block; the same on all workers.

    Whoever hands a block over, as its aggregating worker, keeps what it had. A block that stays where it is goes
    to the next worker, too; if everybody had it before, that costs nothing.

    Args:
        dealt (Assignment): Who holds the blocks from now on.
        plan (ExchangePlan, optional): Of the exchange before. Defaults to None: the model was whole.

    Returns:
        list[int or None]: By block; None: several workers hold it.
    """
    found: list[int | None] = []
    for block in range(dealt.num_blocks):
        holders = dealt.holders(block)
        aggregator = plan.aggregators[block] if plan is not None and plan.aggregators else holders[0]
        if len(holders) > 1 or dealt.num_workers == 1:
            found.append(None)
        else:
            found.append(aggregator if aggregator != holders[0] else (holders[0] + 1) % dealt.num_workers)
    return found


class Copies:
    """What this worker keeps for others.

    A block that is handed over leaves its storage behind, and that is the copy: it takes the memory of the block,
    but no time. Only of a block that stays with its worker a message is sent.

    Args:
        rank (int): This worker.
        parts (Parts): Its parts.
        states (Sequence[TravellingState]): Whatever travels.
        on_host (bool): Whether copies are moved to the memory of the host.
    """

    def __init__(self, rank: int, parts: Parts, states: Sequence[TravellingState], on_host: bool) -> None:
        self.rank, self.parts, self.states, self.on_host = rank, parts, states, on_host
        self.keepers: list[int | None] = []
        self._kept: dict[int, OfBlock] = {}
        self._staged: dict[int, OfBlock] = {}
        self._next: list[int | None] = []

    @property
    def nbytes(self) -> int:
        """Size of the copies in bytes, with those of an exchange that is under way."""
        of_blocks = [*self._kept.values(), *self._staged.values()]
        return sum(t.nbytes for of_block in of_blocks for tensors in of_block.values() for t in tensors)

    def begin(self, dealt: Assignment) -> None:
        """Keep copies as a round begins from the whole model, before blocks are dropped."""
        self.keepers = keepers(dealt, None)
        self._kept = {}
        for block in self._mine(self.keepers):
            part = self.parts.blocks[block]
            # statistics stay with a worker that drops their block
            states = [s for s in self.states if not isinstance(s, RunningStatistics)]
            self._kept[block] = {state: self._moved(state.tensors(part)) for state in states}

    def stage(self, staged: StagedExchange, transport: Transport) -> None:
        """Take over the results of an exchange, which all workers have by now; blocks that stay are sent."""
        plan, new = staged.plan, staged.plan.new
        self._next = keepers(new, plan)
        self._staged = {}
        sends, receives, total = [], [], 0
        for block, keeper in enumerate(self._next):
            holder = new.holders(block)[0]
            is_sent = keeper is not None and not plan.averaged and plan.aggregators[block] == holder
            if is_sent:
                of_states = staged.of_states(self.parts.blocks[block])
                total += sum(payload.nbytes for _, payloads in of_states for payload in payloads)
            if keeper == self.rank and not is_sent:
                self._staged[block] = self._results(staged, block)
            elif keeper == self.rank:
                self._staged[block] = self._rooms(staged, block)
                receives.append((Transfer(block, holder, self.rank), _flat(self._staged[block])))
            elif is_sent and keeper is not None and holder == self.rank:
                sends.append((Transfer(block, self.rank, keeper), _flat(self._results(staged, block))))
        transport.copy(sends, receives, total)

    def get_ready(self) -> None:
        """Move copies to the host; the last step that may fail."""
        for block, of_block in self._staged.items():
            self._staged[block] = {state: self._moved(tensors) for state, tensors in of_block.items()}

    def commit(self) -> None:
        """The exchange is accepted: the copies of the round before are let go."""
        self.keepers, self._kept = self._next, self._staged
        self.drop_staged()

    def drop_staged(self) -> None:
        """The exchange is rolled back: the copies of the round before stay."""
        self._staged, self._next = {}, []

    def of(self, state: TravellingState, part: Part) -> list[Tensor]:
        """The copy of a state of a block; what did not travel is as it is where the worker has never had it."""
        assert part.block is not None
        device, kept = self.parts.device, self._kept[part.block]
        if [(t.numel(), t.dtype) for t in kept.get(state, ())] == state.sizes(part):
            return [tensor.to(device, copy=True) for tensor in kept.get(state, ())]
        if isinstance(state, RunningStatistics):
            return state.tensors(part)
        if isinstance(state, MovingAverage):  # has begun since
            weights = next(tensors for of, tensors in kept.items() if isinstance(of, Weights))
            return [
                t.to(device, dtype, copy=True) for t, (_, dtype) in zip(weights, state.sizes(part), strict=True)
            ]
        # momentum, of an optimizer or of an outer step
        return [torch.zeros(numel, dtype=dtype, device=device) for numel, dtype in state.sizes(part)]

    def _mine(self, of_blocks: Sequence[int | None]) -> list[int]:
        return [block for block, keeper in enumerate(of_blocks) if keeper == self.rank]

    def _results(self, staged: StagedExchange, block: int) -> OfBlock:
        part = self.parts.blocks[block]
        found: OfBlock = {}
        for state, payloads in staged.of_states(part):
            if isinstance(state, Weights) and part.flat is not None:
                found[state] = [part.flat.flat if part.staged is None else part.staged]
            else:
                # of a block that stays as it is nothing has been loaded
                is_loaded = all(p.value is not None or p.staged is not None for p in payloads)
                found[state] = [p.result for p in payloads] if is_loaded else state.tensors(part)
        return found

    def _rooms(self, staged: StagedExchange, block: int) -> OfBlock:
        part, device = self.parts.blocks[block], self.parts.device
        return {
            state: [torch.empty(numel, dtype=dtype, device=device) for numel, dtype in state.sizes(part)]
            for state, _ in staged.of_states(part)
        }

    def _moved(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [t.cpu() if self.on_host else t for t in tensors]


class Restored:
    """What a worker brings into the exchange that follows a loss: some blocks are copies.

    Args:
        copies (Copies): Of this worker.
        blocks (Collection[int]): The blocks that the lost worker alone held.
        undone (RoundStart, optional): If the round of this worker does not count either. Defaults to None.
    """

    def __init__(self, copies: Copies, blocks: Collection[int], undone: RoundStart | None = None) -> None:
        self.copies, self.blocks, self.undone = copies, blocks, undone

    def has(self, block: int) -> bool:
        """Whether the block goes back to what it was."""
        return block in self.blocks or self.undone is not None

    def load(self, state: TravellingState, part: Part, payloads: Sequence[Payload]) -> None:
        """As :meth:`TravellingState.load`."""
        if part.block in self.blocks:
            state.load(part, payloads, self.copies.of(state, part))
        elif self.undone is not None:
            self.undone.load(state, part, payloads)
        else:
            state.load(part, payloads)

    def restore(self) -> None:
        """As :meth:`RoundStart.restore`."""
        if self.undone is not None:
            self.undone.restore()


def _flat(of_block: OfBlock) -> list[Tensor]:
    return [tensor for tensors in of_block.values() for tensor in tensors]
