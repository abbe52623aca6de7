"""The round engine as the benchmarks use it, without a Runner."""

from __future__ import annotations

import time

import torch
from torch import nn

from ...builders import build_codec
from ...exchange import Traffic
from ...exchange.wire import shard_bounds
from ...partition import Assignment
from ...rounds import Engine, RoundProtocol
from ...rounds.health import all_finite, examine

__all__ = ['EngineRounds']

VOTES = 2  # of an exchange: before anything is sent, and once it is complete


class EngineRounds:
    """The engine around a model, with SGD and momentum that restarts at every round.

    Args:
        model (nn.Module): The model of this worker.
        codec (dict, optional): How messages are compressed. Defaults to None: fp32.
        lr (float): Learning rate. Defaults to 0.1.
        deal_blocks (bool): Whether blocks are dealt out. Defaults to True; with False
            the whole model is shared, which is local SGD.
        overlap_iters (int): See :class:`Engine`. Defaults to 0.

    Attributes:
        optimizer: The optimizer.
    """

    def __init__(
        self,
        model: nn.Module,
        codec: dict | None = None,
        lr: float = 0.1,
        deal_blocks: bool = True,
        overlap_iters: int = 0,
    ) -> None:
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        self._protocol = _AsTold(deal_blocks)
        self._compresses = codec is not None
        self._engine = Engine(
            model, self.optimizer, self._protocol, build_codec(codec), overlap_iters=overlap_iters
        )

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return self._engine.num_workers

    @property
    def num_blocks(self) -> int:
        """Number of partitioned blocks; 0 if none are dealt out."""
        return self._engine.parts.num_blocks

    def begin(self, assignment: Assignment) -> None:
        """Begin the first round, with all workers equal."""
        self._protocol.next_assignment = assignment
        self._engine.begin_round()

    def exchange(self, next_assignment: Assignment) -> Traffic:
        """End a round and enter the next."""
        self._protocol.next_assignment = next_assignment
        return self._engine.exchange()

    def average_ahead(self) -> None:
        """Begin to average the shared part before the round ends."""
        self._engine.average_ahead([1] * self.num_workers)

    @property
    def waited_sec(self) -> float:
        """Seconds that this worker has waited in votes, and for what it averaged ahead."""
        return self._engine.transport.waited_sec

    def guard(self) -> tuple[float, float]:
        """Do once more what the guard does in an exchange in which nothing is wrong.

        This worker looks at its piece of what all average, and at as many blocks as it holds.

        Returns:
            tuple[float, float]: Seconds of the look at all numbers, and of the votes.
        """
        engine, began = self._engine, time.perf_counter()
        if self._compresses:
            examine(engine.parts, [state for state in engine.states if state.travels(engine.round, whole=False)])
        for part in engine.parts.all:
            if part.flat is not None and part.held:
                share = shard_bounds(part.flat.numel, engine.num_workers)[engine.rank]
                low, high = share if part.block is None else (0, part.flat.numel)
                all_finite([part.flat.flat[low:high]])
        looked = time.perf_counter()
        for _ in range(VOTES):
            engine.transport.vote(0)
        return looked - began, time.perf_counter() - looked

    def sizes(self) -> tuple[int, list[int]]:
        """Bytes of the shared part, and of each block."""
        parts = self._engine.parts
        return sum(part.nbytes for part in parts.shared), [part.nbytes for part in parts.blocks]


class _AsTold(RoundProtocol):
    """Deals the blocks as the benchmark says."""

    next_assignment: Assignment

    def __init__(self, deals_blocks: bool) -> None:
        self.deals_blocks = deals_blocks

    def assign(self, round_index: int) -> Assignment:
        return self.next_assignment
