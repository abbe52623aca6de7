"""Algorithm 1 of the paper: train locally, aggregate, deal the blocks anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer

from resist_mm.exchange import Traffic, Transport
from resist_mm.exchange.codec import Codec
from resist_mm.partition import Assignment

from .arguments import check_choice, check_keeps_momentum
from .bad_rounds import BadRounds
from .clock import now
from .exchange_steps import ExchangeSteps
from .optimizer_state import OptimizerState
from .overlap import Overlap, check_overlap
from .part import Parts
from .positions import iterations_so_far
from .protocols import RoundProtocol
from .recovery import Recovery
from .round_start import RoundStart
from .states import RunningStatistics, TravellingState, Weights
from .whereabouts import LostWorker, enter, missing_workers_named

__all__ = ['Engine']


class Engine:
    """Trains a model in rounds, as one of several workers (Algorithm 1, Sec. 2.2 to 2.6).

    All workers of the default process group must construct an engine and call its methods in the same order;
    without a process group there is one worker. Guarantees:

    - Inside a round no worker waits for another: there is no collective.
    - An exchange is accepted by all workers or by none: what is received is staged beside the current values
      until all workers have agreed. If preparing or completing it fails on one worker, all workers raise; if a
      worker dies during the transfer, the others raise once the process group notices. All of them keep the
      values from before the exchange.
    - Numbers that are not finite never get into what another worker trains, nor into the whole model: before an
      exchange is accepted the workers vote whether all results are finite; see ``bad_numbers``.
    - Between rounds the model is whole, or the next round begins at once. When it is whole, all workers have the
      same parameters, bit for bit.
    - The same seeds give the same result, to the last bit.

    Args:
        model (nn.Module): The model, not a wrapper of it; the same on all workers at the start.
        optimizers (Optimizer or Sequence[Optimizer]): All optimizers that train it.
        protocol (RoundProtocol): Who holds what.
        codec (Codec, optional): How weights are compressed from round to round (Appendix A.5). Making the model
            whole is exact, unless :meth:`exchange` is told otherwise. Defaults to None: fp32.
        momentum_restart_interval (int, optional): Number of rounds after which the optimizers' state is cleared;
            between restarts it travels. None: never cleared. Defaults to 1.
        bn_interval (int, optional): Number of rounds after which the running statistics of norms travel; they
            also do whenever the model is made whole. Defaults to None: never; see :mod:`.batch_norm`.
        states (Sequence[TravellingState]): What else travels. Defaults to ().
        bad_numbers (str): What happens if a worker has numbers that are not finite. 'stop': all workers raise
            :class:`BadNumbers`, which says where they are. 'drop': the round of that worker does not count. It is
            left out of all means, and what only such workers held has its value from the start of the round, of
            which a copy is kept; optimizers start afresh, and nothing is compressed. Defaults to 'stop'.
        max_bad_rounds (int): With 'drop', number of such rounds in a row that stops training, as does a round in
            which the numbers of all workers are bad. Defaults to 3.
        on_worker_loss (str): What happens if a worker is gone at an exchange. 'stop': the others raise
            :class:`LostWorker`. 'continue' (experimental, gloo only): they go on without it, and blocks that it
            held alone have the value from the start of the round; see :class:`Recovery`. Defaults to 'stop'.
        copies_on_host (bool): With 'continue', whether copies are in the memory of the host. Defaults to False.
        keep_shared_momentum (bool): Whether each worker keeps its own optimizer state of the shared part: never
            sent, and cleared when the model is made whole, or if its round does not count. Defaults to False.
        overlap_iters (int): Number of iterations before the end of a round at which workers begin to average the
            shared part, in the background; see :class:`Overlap`. Defaults to 0: all is averaged at the end.

    Attributes:
        round: Index of the current round, or of the next one if the model is whole.
        assignment: Who holds which blocks in the current round; None if the model is whole.
        parts: The parts of this worker's model.
        bad_rounds: Who was left out of the last round, and how often that has happened.
        recovery: What has been lost so far; None with ``on_worker_loss='stop'``, or if there is one worker.

    Example:
        >>> import torch
        >>> from resist_mm.models import PreActResNet
        >>> from resist_mm.rounds import ResIST
        >>> model = PreActResNet(stage_blocks=(1, 1, 5, 1), block='basic', stem='cifar', base_channels=4)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        >>> engine = Engine(model, optimizer, ResIST(min_blocks=2))
        >>> def train_one_iteration():
        ...     optimizer.zero_grad()
        ...     model(torch.rand(2, 3, 16, 16))[-1].square().mean().backward()
        ...     optimizer.step()
        >>> for _ in range(2):
        ...     traffic = engine.run_round(train_one_iteration, local_iters=4)
        >>> engine.make_whole().total
        0
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizer | Sequence[Optimizer],
        protocol: RoundProtocol,
        codec: Codec | None = None,
        momentum_restart_interval: int | None = 1,
        bn_interval: int | None = None,
        states: Sequence[TravellingState] = (),
        bad_numbers: str = 'stop',
        max_bad_rounds: int = 3,
        on_worker_loss: str = 'stop',
        copies_on_host: bool = False,
        keep_shared_momentum: bool = False,
        overlap_iters: int = 0,
    ) -> None:
        check_choice('on_worker_loss', on_worker_loss, 'stop', 'continue')
        check_keeps_momentum('keep_shared_momentum', keep_shared_momentum, momentum_restart_interval)
        check_overlap(overlap_iters, bad_numbers, on_worker_loss, codec)
        self.protocol = protocol
        self.parts = Parts(model, protocol.deals_blocks)
        shared = [p for part in self.parts.shared for p in part.params]
        weights = Weights(codec)
        self.states: list[TravellingState] = [
            weights,
            OptimizerState(optimizers, momentum_restart_interval, shared if keep_shared_momentum else ()),
            RunningStatistics(bn_interval),
            *states,
        ]
        transport = Transport(self.parts.device)
        self.round = 0
        self.assignment: Assignment | None = None
        self.bad_rounds = BadRounds(bad_numbers, max_bad_rounds)
        self.parts.get_ready_for(codec)
        protocol.seed = 0 if protocol.seed is None else protocol.seed
        protocol.set_up(self.parts, transport.num_workers)
        self.states += protocol.states
        drops, compares = self.bad_rounds.drops, codec is not None and codec.uses_reference
        references = drops or compares or protocol.needs_reference
        self._start = RoundStart(self.parts, self.states, references, copies=drops)
        goes_on = on_worker_loss == 'continue' and transport.num_workers > 1
        self.recovery = Recovery(transport.rank, self.parts, self.states, copies_on_host) if goes_on else None
        self.overlap_iters = overlap_iters
        overlaps = overlap_iters > 0 and transport.num_workers > 1
        self._overlap = Overlap(self.parts, weights, references) if overlaps else None
        everything = (self.parts, self.states, protocol, transport, self.bad_rounds, self._start, self.recovery)
        self._steps = ExchangeSteps(*everything, self._overlap)

    @property
    def transport(self) -> Transport:
        """Moves payloads between the workers that are there."""
        return self._steps.transport

    @property
    def rank(self) -> int:
        """The rank of this worker."""
        return self.transport.rank

    @property
    def num_workers(self) -> int:
        """How many workers there are."""
        return self.transport.num_workers

    @property
    def in_sync(self) -> bool:
        """Whether the model is whole, and the same on all workers."""
        return self.assignment is None

    def run_round(
        self, train_one_iteration: Callable[[], object], local_iters: int, whole: bool = False
    ) -> Traffic:
        """Train ``local_iters`` iterations, then exchange; begin a round first if the model is whole.

        Args:
            train_one_iteration (Callable): Forward, backward and optimizer step of this worker.
            local_iters (int): Iterations of the round, l in the paper; where the protocol sets ``iters_by_speed``,
                those of the fastest worker.
            whole (bool): Whether the round ends with the whole model. Defaults to False: the next one begins.

        Returns:
            Traffic: The bytes moved.

        Raises:
            ValueError: If the round is not longer than ``overlap_iters``.
        """
        if self.overlap_iters >= local_iters:
            raise ValueError(f'overlap_iters={self.overlap_iters} must be below local_iters={local_iters}')
        if self.in_sync:
            self.begin_round()
        iterations, began = self.protocol.iterations(self.round, local_iters), now()
        mine = iterations[self.rank]
        ahead = None if whole else self._due(mine, local_iters)
        for done in range(mine + 1):
            if done == ahead:  # of a slow worker perhaps after all of its iterations
                self.average_ahead(iterations)
            if done < mine:
                train_one_iteration()
        self.protocol.trained(self.rank, self.round, iterations, now() - began)
        return self.exchange(whole)

    def begin_round(self) -> None:
        """Begin a round from the whole model. All copies are equal, so blocks are dropped without a message."""
        assignment = self.protocol.assign(self.round)
        self._steps.begin(assignment)
        self._enter(assignment)

    def average_ahead(self, iterations: Sequence[int]) -> None:
        """Begin to average the shared part, ``overlap_iters`` before the end of a round (see :class:`Overlap`).

        :meth:`run_round` does so; a loop of your own calls it on all workers, at the same iteration, or on none.
        Nothing is done if there is one worker, or without ``overlap_iters``.

        Args:
            iterations (Sequence[int]): How many iterations each worker will have trained in this round.

        Raises:
            RuntimeError: If no round is running, or this has been called in it before.
        """
        if self._overlap is None:
            return
        if self.assignment is None:
            raise RuntimeError('no round is running, so there is nothing to average: call begin_round() first')
        self.protocol.expect(iterations)
        self._overlap.start(self.protocol.weigh(self.assignment))

    def make_whole(self) -> Traffic:
        """End the round with the whole model on every worker; do nothing if it is whole already."""
        return Traffic() if self.in_sync else self.exchange(whole=True)

    def exchange(self, whole: bool = False, complaint: str = '', exact: bool = True) -> Traffic:
        """End the round: aggregate the parts, hand the blocks to their next holders, begin the next round.

        Args:
            whole (bool): Whether every worker gets every block instead, and no round begins.
            complaint (str): Why the round of this worker should not count although its numbers are finite, such as
                a loss that has exploded; treated as bad numbers. Defaults to '': nothing is wrong.
            exact (bool): Whether nothing is compressed if the model becomes whole. Defaults to True.

        Returns:
            Traffic: The bytes moved.

        Raises:
            RuntimeError: If no round is running.
            ExchangeRefused: If it failed on another worker; this worker keeps the values from before it.
            BadNumbers: On all workers, if numbers of one of them are bad, and ``bad_numbers`` says to stop then.
            LostWorker: If another worker has ended or does not come; names it if it has not got here. With
                ``on_worker_loss='continue'`` only if training cannot go on without it.
        """
        if self.assignment is None:
            raise RuntimeError('no round is running, so there is nothing to exchange: call begin_round() first')
        while True:
            try:
                return self._exchange(self.assignment, whole, complaint, exact)
            except LostWorker as error:
                self.assignment = self._steps.go_on_without_lost(self.round, self.assignment, error)

    @missing_workers_named()
    def _exchange(self, dealt: Assignment, whole: bool, complaint: str, exact: bool) -> Traffic:
        enter('exchange', self.round, waits=True)
        steps = self._steps
        self.assignment = old = self.protocol.weigh(dealt)
        with steps.rolled_back_unless_accepted():
            steps.wait_for_overlap(whole)  # before any other message
            if self.protocol.speeds is not None:
                self.protocol.speeds.agree(self.round, steps.guard)
            staged, left_out = steps.prepare(self.round, old, whole, complaint, whole and exact)
            traffic, finite = steps.carry_out(self.round, staged, whole)
            if not finite:
                staged, left_out = steps.leave_out_bad(self.round, old, staged, complaint)
                again, finite = steps.carry_out(self.round, staged, whole)
                traffic += again
                self.bad_rounds.check_means(self.round, finite)
        # accepted by all workers: from here on nothing may fail
        steps.commit(staged, whole)
        self.bad_rounds.settle(left_out)
        self.round += 1
        self._enter(None if whole else staged.plan.new)
        return traffic

    def _due(self, iterations: int, local_iters: int) -> int | None:
        """After how many of its iterations a worker begins to average the shared part; None: at the end."""
        if self._overlap is None or self._overlap.under_way:  # after an exchange that was refused
            return None
        return iterations_so_far(local_iters - self.overlap_iters, iterations, local_iters)

    def _enter(self, assignment: Assignment | None) -> None:
        """Hold exactly the blocks of an assignment; None stands for the whole model between rounds."""
        self.assignment = assignment
        if assignment is None or assignment.is_full:
            self.parts.make_whole()
        else:
            for part in self.parts.keep(assignment.blocks(self.rank)):
                for state in self.states:
                    state.forget(part)
        if assignment is None:
            enter(f'between rounds {self.round - 1} and {self.round}')
        else:
            enter('training', self.round)
            self._start.remember()
            self.protocol.begin_round(self.parts)
