"""The rounds of one worker: begin, exchange, whole model."""

from __future__ import annotations

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.exchange.codec import Codec
from resist_mm.partition import Assignment

from .cargo import Cargo, Compression
from .worker_state import WorkerState

__all__ = ['WorkerRounds']


class WorkerRounds:
    """Takes a worker from one assignment to the next.

    To be made, and its methods called, by all workers alike. Between rounds the
    model is whole; a round that follows on another goes without.

    Args:
        worker (WorkerState): The tensors of this worker.
        codec (Codec, optional): How weights are compressed on their way from round to
            round. Making the model whole is always exact. Defaults to None.
    """

    def __init__(self, worker: WorkerState, codec: Codec | None = None) -> None:
        self.worker = worker
        self.compression = Compression(worker, codec)
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
        self.compression.remember()

    def exchange(self, following: Assignment | None, restart_momentum: bool, statistics_travel: bool) -> Traffic:
        """End a round, and begin the following one unless the model becomes whole.

        Args:
            following (Assignment, optional): Who holds which blocks from now on.
                None: all workers everything, as the whole model.
            restart_momentum (bool): Whether the optimizer starts afresh; if not,
                its state is exchanged too.
            statistics_travel (bool): Whether running statistics of norms are averaged
                and handed over with the parameters.

        Returns:
            Traffic: The bytes moved.
        """
        assert self.assignment is not None, 'no round is running'
        old = self.assignment
        new = following or Assignment.full(self.num_workers, self.worker.num_blocks)
        if self.num_workers > 1:
            self.worker.drop_gradients()
        if restart_momentum:
            self.worker.optimizer_state.clear()
        else:
            self.worker.optimizer_state.agree_on_kinds()
        if following is None:
            self.compression.settle()
        plan = None if old.is_full else ExchangePlan.between(old, new)
        compression = None if following is None else self.compression
        cargo = Cargo(self.worker, not restart_momentum, statistics_travel, compression, plan)
        if plan is None:
            # nothing changes hands, and the average leaves the whole model everywhere
            blocks = [parcel for block in range(self.worker.num_blocks) for parcel in cargo.gathered(block)]
            traffic = self.transport.average(cargo.shared() + blocks)
        else:
            traffic = self.transport.exchange(plan, cargo.shared(), cargo)
        traffic.buffers += self.compression.nbytes
        cargo.unpack()
        self.assignment = None
        if new.is_full:
            self.worker.make_whole()
        if following is not None:
            self.begin(following)
        return traffic
