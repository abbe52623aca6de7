"""Algorithm 1 of the paper: train locally, aggregate, deal the blocks anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from torch import nn
from torch.optim import Optimizer

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.exchange.codec import Codec
from resist_mm.exchange.memory import return_freed_memory
from resist_mm.partition import Assignment

from .bad_rounds import BadRounds
from .guard import Guard
from .health import examine
from .optimizer_state import OptimizerState
from .part import Part, Parts
from .protocols import RoundProtocol
from .round_start import Remaining, RoundStart
from .staging import StagedExchange
from .states import RunningStatistics, TravellingState, Weights
from .whereabouts import enter, missing_workers_named

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
            also do whenever the model is made whole. Defaults to None: they never travel; see
            :mod:`resist_mm.rounds.batch_norm`.
        states (Sequence[TravellingState]): What else travels. Defaults to ().
        bad_numbers (str): What happens if a worker has numbers that are not finite. 'stop': all workers raise
            :class:`BadNumbers`, which says where they are. 'drop': the round of that worker does not count. It is
            left out of all means, and a block that only such workers held keeps its value from the start of the
            round; so do running statistics and whatever else travels, while the state of optimizers starts
            afresh. This takes a copy of what a worker holds, which protocols with a reference keep anyway. A round
            in which workers are left out travels uncompressed. Defaults to 'stop'.
        max_bad_rounds (int): With 'drop', so many such rounds in a row stop training, as does a round in which the
            numbers of all workers are bad. Defaults to 3.

    Attributes:
        round: Index of the current round, or of the next one if the model is whole.
        assignment: Who holds which blocks in the current round; None if the model is whole.
        parts: The parts of this worker's model.
        bad_rounds: Who was left out of the last round, and how often that has happened.

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
    ) -> None:
        self.protocol = protocol
        self.parts = Parts(model, protocol.deals_blocks)
        optimizers = [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)
        self.states: list[TravellingState] = [
            Weights(codec),
            OptimizerState(optimizers, momentum_restart_interval),
            RunningStatistics(bn_interval),
            *states,
        ]
        self._error_in_mean: Exception | None = None
        self.transport = Transport(self.parts.device)
        self.guard = Guard(self.transport)
        self.round = 0
        self.assignment: Assignment | None = None
        self.bad_rounds = BadRounds(bad_numbers, max_bad_rounds)
        self._keeps_reference = (
            self.bad_rounds.drops or protocol.needs_reference or (codec is not None and codec.uses_reference)
        )
        self._changes_means = type(protocol).on_mean is not RoundProtocol.on_mean
        if codec is not None and codec.feeds_errors_back:
            for part in self.parts.shared:
                if part.flat is not None:
                    part.residual = part.flat.flat.new_zeros(part.flat.num_weights)
        protocol.set_up(self.parts, self.num_workers)
        self.states += protocol.states
        self._start = RoundStart(self.parts, self.states) if self.bad_rounds.drops else None

    @property
    def rank(self) -> int:
        """Rank of this worker."""
        return self.transport.rank

    @property
    def num_workers(self) -> int:
        """Number of workers."""
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
        self._enter(self.protocol.assign(self.round))

    def make_whole(self) -> Traffic:
        """End the round with the whole model on every worker; do nothing if it is whole already."""
        return Traffic() if self.in_sync else self.exchange(whole=True)

    @missing_workers_named()
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
            LostWorker: If another worker has ended or does not come; names it if it has not got here.
        """
        if self.assignment is None:
            raise RuntimeError('no round is running, so there is nothing to exchange: call begin_round() first')
        enter('exchange', self.round, waits=True)
        travelling = self.protocol.travelling(self.states, self.round, whole)
        for state in travelling:
            state.prepare()
        staged = self._error_in_mean = None
        left_out: dict[int, list[str]] = {}
        try:
            with self.guard.all_or_none('preparing the exchange') as vote:
                next_assignment = self._everything if whole else self.protocol.assign(self.round + 1)
                plan = ExchangePlan.between(self.assignment, next_assignment)
                staged = self._stage(plan, travelling, exact=whole)
                vote.complaints = [*examine(self.parts, travelling), *filter(None, [complaint])]
            if vote.bad_workers:
                left_out = self.bad_rounds.judge(self.round, vote.complaints, self._can_go_back(travelling))
                staged.roll_back()
                plan, staged = self._leave_out(left_out, next_assignment, travelling)
            traffic = self.transport.run(plan, staged, self._on_mean_of_block)
            with self.guard.all_or_none('completing the exchange'):
                if self._error_in_mean is not None:
                    raise self._error_in_mean
                self._on_means(staged.averaged_parts())
                staged.get_ready()
                if not whole:
                    self._make_room_to_remember(next_assignment.blocks(self.rank))
        except BaseException:
            if staged is not None:
                staged.roll_back()
            self._drop_unused_room()
            self.protocol.roll_back()
            raise
        traffic.buffers += staged.nbytes + self._remembered_bytes
        staged.commit()
        self.protocol.commit()
        for state in self.states:
            if state not in travelling:
                state.restart()
        self.bad_rounds.settle(left_out)
        self.round += 1
        self._enter(None if whole else next_assignment)
        return traffic

    def _leave_out(
        self, workers: Collection[int], next_assignment: Assignment, states: Sequence[TravellingState]
    ) -> tuple[ExchangePlan, StagedExchange]:
        """Plan and stage again, so that the round of some workers does not count."""
        assert self.assignment is not None
        with self.guard.all_or_none('leaving out workers with bad numbers'):
            remaining = Remaining(self.assignment, next_assignment, workers)
            plan = ExchangePlan.between(remaining, next_assignment)
            return plan, self._stage(plan, states, exact=True, undone=self.rank in workers)

    def _stage(
        self, plan: ExchangePlan, states: Sequence[TravellingState], exact: bool, undone: bool = False
    ) -> StagedExchange:
        self.parts.check_trainable()
        if self.num_workers > 1:
            had_gradients = any(p.grad is not None for p in self.parts.model.parameters())
            self.parts.drop_gradients()  # of the old sub-ResNet; staged values take their memory
            if had_gradients:
                return_freed_memory(self.parts.device)
        instead = self._start if undone else None
        return StagedExchange(plan, self.rank, self.parts, states, exact, self._changes_means, instead)

    def _can_go_back(self, states: Sequence[TravellingState]) -> bool:
        return self._start is not None and self._start.is_finite(states)

    def _make_room_to_remember(self, blocks: Collection[int]) -> None:
        if self._keeps_reference:
            self.parts.make_room_for_references(blocks)
        if self._start is not None:
            self._start.make_room(blocks)

    def _drop_unused_room(self) -> None:
        self.parts.drop_unused_room()
        if self._start is not None:
            self._start.drop_unused_room()

    @property
    def _remembered_bytes(self) -> int:
        kept = 0 if self._start is None else self._start.nbytes
        return kept + sum(part.extra_bytes for part in self.parts.all)

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
            return
        enter('training', self.round)
        if self._keeps_reference:
            for part in self.parts.all:
                part.remember()
        if self._start is not None:
            self._start.remember()
        self.protocol.begin_round(self.parts)

    def _on_mean_of_block(self, block: int) -> None:
        try:
            self._on_means([self.parts.blocks[block]])
        except Exception as error:  # the new holders are waiting for the block; it is refused by all afterwards
            self._error_in_mean = error

    def _on_means(self, parts: Sequence[Part]) -> None:
        if not self._changes_means:
            return
        for part in parts:
            if part.staged is not None:
                self.protocol.on_mean(part, part.staged)

    @property
    def _everything(self) -> Assignment:
        return Assignment.full(self.num_workers, self.parts.num_blocks)
