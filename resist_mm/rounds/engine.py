"""Algorithm 1 of the paper: train locally, aggregate, deal the blocks anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from torch import nn
from torch.optim import Optimizer

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.exchange.codec import Codec
from resist_mm.partition import Assignment

from .arguments import check_choice
from .bad_rounds import BadRounds
from .guard import Guard
from .health import examine
from .means import Means
from .optimizer_state import OptimizerState
from .part import Parts
from .protocols import RoundProtocol
from .recovery import Recovery
from .round_start import Remaining, RoundStart
from .staging import StagedExchange
from .states import RunningStatistics, TravellingState, Weights
from .travelling import agree_on_travelling
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
    - Numbers that are not finite never reach another worker, nor the whole model: before anything is averaged the
      workers vote whether all that each of them holds is finite; see ``bad_numbers``.
    - Between rounds the model is whole, or the next round begins at once. When it is whole, all workers have the
      same parameters, bit for bit.
    - The same seeds give the same result, to the last bit.

    Args:
        model (nn.Module): The model, not a wrapper of it; the same on all workers at the start.
        optimizers (Optimizer or Sequence[Optimizer]): All optimizers that train it.
        protocol (RoundProtocol): Who holds what.
        codec (Codec, optional): How weights are compressed from round to round (Appendix A.5). Making the model
            whole is always exact. Defaults to None: fp32.
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
        copies_on_host (bool): With 'continue', whether the copies of blocks that this takes are in the memory of
            the host. Defaults to False: on the device of the model.

    Attributes:
        rank, num_workers: Rank of this worker, and how many there are.
        round: Index of the current round, or of the next one if the model is whole.
        assignment: Who holds which blocks in the current round; None if the model is whole.
        parts: The parts of this worker's model.
        bad_rounds: Who was left out of the last round, and how often that has happened.
        recovery: What has been lost so far; None with ``on_worker_loss='stop'``, or if there is one worker.

    Example:
        >>> engine = Engine(model, optimizer, ResIST(min_blocks=2))
        >>> for _ in range(num_rounds):
        ...     engine.run_round(train_one_iteration, local_iters=50)
        >>> engine.make_whole()
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
    ) -> None:
        check_choice('on_worker_loss', on_worker_loss, 'stop', 'continue')
        self.protocol = protocol
        self.parts = Parts(model, protocol.deals_blocks)
        optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.states: list[TravellingState] = [
            Weights(codec),
            OptimizerState(optimizers, momentum_restart_interval),
            RunningStatistics(bn_interval),
            *states,
        ]
        self.transport = Transport(self.parts.device)
        self.rank, self.num_workers = self.transport.rank, self.transport.num_workers
        self.guard = Guard(self.transport)
        self.round = 0
        self.assignment: Assignment | None = None
        self.bad_rounds = BadRounds(bad_numbers, max_bad_rounds)
        self.parts.get_ready_for(codec)
        protocol.seed = 0 if protocol.seed is None else protocol.seed
        protocol.set_up(self.parts, self.num_workers)
        self.states += protocol.states
        self._means = Means(protocol, self.parts)
        drops, compares = self.bad_rounds.drops, codec is not None and codec.uses_reference
        references = drops or compares or protocol.needs_reference
        self._start = RoundStart(self.parts, self.states, references, copies=drops)
        self._staged: StagedExchange | None = None
        self.recovery: Recovery | None = None
        if on_worker_loss == 'continue' and self.num_workers > 1:
            self.recovery = Recovery(self.rank, self.parts, self.states, copies_on_host)

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
            local_iters (int): Iterations of the round, l in the paper.
            whole (bool): Whether the round ends with the whole model. Defaults to False: the next one begins.

        Returns:
            Traffic: The bytes moved.
        """
        if self.in_sync:
            self.begin_round()
        for _ in range(local_iters):
            train_one_iteration()
        return self.exchange(whole)

    def begin_round(self) -> None:
        """Begin a round from the whole model. All copies are equal, so blocks are dropped without a message."""
        assignment = self.protocol.assign(self.round)
        if self.recovery is not None:
            self.recovery.begin(assignment)
        self._enter(assignment)

    def make_whole(self) -> Traffic:
        """End the round with the whole model on every worker; do nothing if it is whole already."""
        return Traffic() if self.in_sync else self.exchange(whole=True)

    def exchange(self, whole: bool = False, complaint: str = '') -> Traffic:
        """End the round: aggregate the parts, hand the blocks to their next holders, begin the next round.

        Args:
            whole (bool): Whether every worker gets every block instead, and no round begins.
            complaint (str): Why the round of this worker should not count although its numbers are finite, such as
                a loss that has exploded; treated as bad numbers. Defaults to '': nothing is wrong.

        Returns:
            Traffic: The bytes moved.

        Raises:
            RuntimeError: If no round is running.
            ExchangeRefused: If it failed on another worker; this worker keeps the values from before it.
            BadNumbers: On all workers, if numbers of one of them are bad, and ``bad_numbers`` says to stop then.
            LostWorker: If another worker has ended or does not come; names it if it has not got here. With
                ``on_worker_loss='continue'`` only if training cannot go on without it.
        """
        while True:
            try:
                return self._exchange(whole, complaint)
            except LostWorker as error:
                if self.recovery is None or self.assignment is None:
                    raise
                self._go_on_without_lost(self.recovery, self.assignment, error)

    @missing_workers_named()
    def _exchange(self, whole: bool, complaint: str) -> Traffic:
        if self.assignment is None:
            raise RuntimeError('no round is running, so there is nothing to exchange: call begin_round() first')
        enter('exchange', self.round, waits=True)
        choose = partial(self.protocol.travelling, self.states, self.round, whole)
        with self._rolled_back_unless_accepted():
            states = agree_on_travelling(self.guard, choose)
            staged, left_out = self._prepare(states, whole, complaint)
            traffic = self.transport.run(staged.plan, staged, self._means.of_block)
            traffic.buffers += staged.nbytes + self._start.nbytes + self.parts.residual_bytes
            if self.recovery is None:
                self._complete(staged, whole)
            else:
                self.recovery.stage(staged, self.transport, whole)
                with self.recovery.last_vote(self.round):
                    self._complete(staged, whole)
                self.recovery.commit()
        # accepted by all workers: from here on nothing may fail
        staged.commit()
        self.protocol.commit()
        for state in self._staying(staged):
            state.restart()
        self.bad_rounds.settle(left_out)
        self.round += 1
        self._staged = None
        self._enter(None if whole else staged.plan.new)
        return traffic

    def _prepare(
        self, states: Sequence[TravellingState], whole: bool, complaint: str
    ) -> tuple[StagedExchange, dict[int, list[str]]]:
        """Plan and stage the exchange; also says which workers it leaves out, and why."""
        assert self.assignment is not None
        stage = partial(StagedExchange, self.rank, self.parts, states, self._means.may_change)
        with self.guard.all_or_none('preparing the exchange') as vote:
            everything = Assignment.full(self.num_workers, self.parts.num_blocks)
            following = everything if whole else self.protocol.assign(self.round + 1)
            exact, source = whole, None
            if self.recovery is not None:
                exact, source = whole or self.recovery.under_way, self.recovery.source(self.rank)
            self._staged = stage(ExchangePlan.between(self.assignment, following), exact=exact, undone=source)
            complaints = [*examine(self.parts, states), *filter(None, [complaint])]
            vote.has_news = bool(complaints)
        if not vote.with_news:
            return self._staged, {}
        left_out = self.bad_rounds.judge(self.round, complaints, self._start.is_finite(states))
        self._staged.let_go()
        with self.guard.all_or_none('leaving out workers with bad numbers'):
            plan = ExchangePlan.between(Remaining(self.assignment, following, left_out), following)
            undone = self._start if self.rank in left_out else None
            source = undone if self.recovery is None else self.recovery.source(self.rank, undone)
            self._staged = stage(plan, exact=True, undone=source)
            return self._staged, left_out

    def _complete(self, staged: StagedExchange, whole: bool) -> None:
        """Do whatever may still fail once everything has arrived."""
        with self.guard.all_or_none('completing the exchange'):
            self._means.of_everybody(staged.averaged_parts())
            staged.get_ready()
            blocks = staged.plan.new.blocks(self.rank)
            for state in self._staying(staged):
                for part in self.parts.held_with(blocks):
                    state.get_ready_to_restart(part)
            if not whole:
                self._start.make_room(blocks)
            if self.recovery is not None:
                self.recovery.copies.get_ready()

    def _staying(self, staged: StagedExchange) -> list[TravellingState]:
        """The states that do not travel."""
        return [state for state in self.states if state not in staged.states]

    @contextmanager
    def _rolled_back_unless_accepted(self) -> Iterator[None]:
        """If the body fails, everything is as before it, but for gradients that may be gone."""
        self._means.forget()
        try:
            yield
        except BaseException:
            if self._staged is not None:
                self._staged.let_go()
                self._staged = None
            for state in self.states:
                state.roll_back()
            self._start.drop_unused_room()
            self.protocol.roll_back()
            if self.recovery is not None:
                self.recovery.copies.drop_staged()
            raise

    def _go_on_without_lost(self, recovery: Recovery, assignment: Assignment, error: LostWorker) -> None:
        """Become a worker of the group that is left, in the same round."""
        self.assignment = recovery.regroup(self.round, assignment, error)
        self.transport = Transport(self.parts.device)
        self.rank, self.num_workers = self.transport.rank, self.transport.num_workers
        self.guard = Guard(self.transport)
        self.protocol.set_workers(self.num_workers)

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
