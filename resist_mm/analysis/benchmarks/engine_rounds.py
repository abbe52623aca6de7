"""The round engine as the benchmarks use it, without a Runner."""

from __future__ import annotations

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from ...engine.optimizer_state import OptimizerState
from ...engine.worker_rounds import WorkerRounds
from ...engine.worker_state import WorkerState
from ...exchange import Traffic, build_codec
from ...partition import Assignment

__all__ = ['EngineRounds']


class EngineRounds:
    """The engine around a model, with SGD and momentum that restarts at every round.

    Args:
        model (nn.Module): The model of this worker.
        codec (dict, optional): How messages are compressed. Defaults to None: fp32.
        lr (float): Learning rate. Defaults to 0.1.
        deal_blocks (bool): Whether blocks are dealt out. Defaults to True; with False
            the whole model is shared, which is local SGD.

    Attributes:
        optimizer: The optimizer.
    """

    def __init__(
        self, model: nn.Module, codec: dict | None = None, lr: float = 0.1, deal_blocks: bool = True
    ) -> None:
        self.optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
        worker = WorkerState(model, OptimizerState(OptimWrapper(self.optimizer)), deal_blocks)
        self._rounds = WorkerRounds(worker, build_codec(codec))

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return self._rounds.num_workers

    @property
    def num_blocks(self) -> int:
        """Number of partitioned blocks; 0 if none are dealt out."""
        return self._rounds.worker.num_blocks

    def begin(self, assignment: Assignment) -> None:
        """Begin the first round, with all workers equal."""
        self._rounds.begin(assignment)

    def exchange(self, following: Assignment) -> Traffic:
        """End a round and enter the next."""
        return self._rounds.exchange(following, restart_momentum=True, statistics_travel=False)

    def sizes(self) -> tuple[int, list[int]]:
        """Bytes of the shared part, and of each block."""
        worker = self._rounds.worker
        blocks = [worker.flat_block(block).nbytes for block in range(worker.num_blocks)]
        return sum(flat.nbytes for flat in worker.shared), blocks
