"""The rounds of one worker: begin, exchange, whole model."""

from __future__ import annotations

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.partition import Assignment

from .optimizer_state import OptimizerState
from .worker_state import Cargo, WorkerState

__all__ = ['WorkerRounds']


class WorkerRounds:
    """Takes a worker from one assignment to the next.

    To be made, and its methods called, by all workers alike. Between rounds the
    model is whole; a round that follows on another goes without.

    Args:
        worker (WorkerState): The tensors of this worker.
        statistics_travel (bool): Whether running statistics of norms are averaged
            and handed over with the parameters.
    """

    def __init__(self, worker: WorkerState, statistics_travel: bool) -> None:
        self.worker = worker
        self.statistics_travel = statistics_travel
        self.transport = Transport(worker.device)
        self.assignment: Assignment | None = None

    @property
    def is_whole(self) -> bool:
        """Whether the model is whole, and the same on all workers."""
        return self.assignment is None

    @property
    def rank(self) -> int:
        """This worker."""
        return self.transport.rank

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return self.transport.num_workers

    def begin(self, assignment: Assignment) -> None:
        """Begin a round from the whole model: free blocks, send nothing.

        With a full assignment the model stays as it is, scaled: local SGD.
        """
        if not assignment.is_full:
            self.worker.hold(assignment.blocks(self.rank))
        self.assignment = assignment

    def exchange(self, following: Assignment | None, restart_momentum: bool) -> Traffic:
        """End a round, and begin the following one unless the model becomes whole.

        Args:
            following (Assignment, optional): Who holds which blocks from now on.
                None: all workers everything, as the whole model.
            restart_momentum (bool): Whether the optimizer starts afresh; if not,
                its state is exchanged too.

        Returns:
            Traffic: The bytes moved.
        """
        assert self.assignment is not None, 'no round is running'
        old = self.assignment
        new = following or Assignment.full(self.num_workers, self.worker.num_blocks)
        state: OptimizerState = self.worker.optimizer_state
        if restart_momentum:
            state.clear()
        cargo = Cargo(self.worker, momentum=not restart_momentum, statistics=self.statistics_travel)
        if old.is_full:
            # nothing changes hands, and the average leaves the whole model everywhere
            blocks = [t for block in range(self.worker.num_blocks) for t in cargo.tensors(block)]
            traffic = self.transport.average(cargo.shared() + blocks)
        else:
            traffic = self.transport.exchange(ExchangePlan.between(old, new), cargo.shared(), cargo)
        cargo.unpack()
        self.assignment = None
        if new.is_full:
            self.worker.make_whole()
        if following is not None:
            self.begin(following)
        return traffic
