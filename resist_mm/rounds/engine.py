"""Algorithm 1 of the paper: train apart, aggregate, deal anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import nn
from torch.optim import Optimizer

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.exchange.codec import Codec
from resist_mm.exchange.memory import return_freed_memory
from resist_mm.partition import Assignment

from .guard import Guard
from .optimizer_state import OptimizerState
from .part import Part, Parts
from .protocols import RoundProtocol
from .staging import StagedExchange
from .states import RunningStatistics, TravellingState, Weights

__all__ = ['Engine']


class Engine:
    """Trains a model in rounds, as one of several workers (Algorithm 1, Sec. 2.2 to 2.6).

    To be made, and its methods called, by all workers of the default process group alike; without one there is
    one worker. What holds:

    - Inside a round no worker waits for another: there is no collective.
    - An exchange is accepted by all workers or changes nothing: what is received is staged beside what is held
      until all have agreed. An error before that is raised on every worker, which then has the values from
      before the exchange.
    - Between rounds the model is whole, or another round begins at once. When it is whole, all workers have the
      same parameters, bit for bit.
    - The same seeds give the same result, to the last bit.

    Args:
        model (nn.Module): The model, not a wrapper of it; it starts equal on all workers.
        optimizers (Optimizer or Sequence[Optimizer]): All that train it.
        protocol (RoundProtocol): Who holds what.
        codec (Codec, optional): How weights are compressed from round to round (Appendix A.5). Making the model
            whole is exact. Defaults to None: fp32.
        momentum_restart_interval (int, optional): Optimizers start afresh every so many rounds; in between
            their state travels. None: they never start afresh. Defaults to 1.
        bn_interval (int, optional): Running statistics of norms travel every so many rounds, and whenever
            the model is made whole. Defaults to None: never; see :mod:`resist_mm.rounds.batch_norm`.
        states (Sequence[TravellingState]): What else travels. Defaults to ().

    Attributes:
        round: Index of the round that is running, or of the next one.
        assignment: Who holds which blocks in the round that is running; None: the model is whole.
        parts: The parts of this worker's model.

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
        self.transport = Transport(self.parts.device)
        self.guard = Guard(self.transport)
        self.round = 0
        self.assignment: Assignment | None = None
        self._keeps_reference = protocol.needs_reference or (codec is not None and codec.uses_reference)
        self._changes_means = type(protocol).on_mean is not RoundProtocol.on_mean
        if codec is not None and codec.feeds_errors_back:
            for part in self.parts.shared:
                if part.flat is not None:
                    part.residual = part.flat.flat.new_zeros(part.flat.num_weights)
        protocol.set_up(self.parts, self.num_workers)

    @property
    def rank(self) -> int:
        """This worker."""
        return self.transport.rank

    @property
    def num_workers(self) -> int:
        """Number of workers."""
        return self.transport.num_workers

    @property
    def in_sync(self) -> bool:
        """Whether the model is whole, and the same on all workers."""
        return self.assignment is None

    def run_round(self, train_one_iteration: Callable[[], object], local_iters: int) -> Traffic:
        """Run one round, from the dealing of the blocks to the next one."""
        if self.in_sync:
            self.begin_round()
        for _ in range(local_iters):
            train_one_iteration()
        return self.exchange()

    def begin_round(self) -> None:
        """Begin a round from the whole model: equal copies need no message, blocks are just dropped."""
        self._enter(self.protocol.assign(self.round))

    def make_whole(self) -> Traffic:
        """End the round with the whole model on every worker; if it is whole, do nothing."""
        return Traffic() if self.in_sync else self.exchange(whole=True)

    def exchange(self, whole: bool = False) -> Traffic:
        """End a round: aggregate the parts, hand blocks to their next holders, begin the next round.

        Args:
            whole (bool): Whether every worker gets every block instead, and no round begins.

        Returns:
            Traffic: The bytes moved.

        Raises:
            ExchangeRefused: If it failed on another worker; the values are those from before.
        """
        if self.assignment is None:
            raise RuntimeError('no round is running, so that there is nothing to exchange: begin_round() first')
        travelling = self.protocol.travelling(self.states, self.round, whole)
        for state in travelling:
            state.prepare()
        staged = None
        try:
            with self.guard.all_or_none('preparing the exchange'):
                next_assignment = self._everything if whole else self.protocol.assign(self.round + 1)
                plan = ExchangePlan.between(self.assignment, next_assignment)
                staged = self._stage(plan, travelling, exact=whole)
            traffic = self.transport.run(plan, staged, self._on_mean_of_block)
            with self.guard.all_or_none('completing the exchange'):
                self._on_means(staged.averaged_parts())
                staged.get_ready()
        except BaseException:
            if staged is not None:
                staged.roll_back()
            self.protocol.roll_back()
            raise
        traffic.buffers += staged.nbytes + sum(part.extra_bytes for part in self.parts.all)
        staged.commit()
        self.protocol.commit()
        for state in self.states:
            if state not in travelling:
                state.restart()
        self.round += 1
        self._enter(None if whole else next_assignment)
        return traffic

    def _stage(self, plan: ExchangePlan, states: Sequence[TravellingState], exact: bool) -> StagedExchange:
        self.parts.check_trainable()
        if self.num_workers > 1:
            had_gradients = any(p.grad is not None for p in self.parts.model.parameters())
            self.parts.drop_gradients()  # of the old sub-ResNet; what is staged takes their memory
            if had_gradients:
                return_freed_memory(self.parts.device)
        return StagedExchange(plan, self.rank, self.parts, states, exact, self._changes_means)

    def _enter(self, assignment: Assignment | None) -> None:
        """Hold what an assignment says, and nothing else; None: the whole model."""
        self.assignment = assignment
        if assignment is None or assignment.is_full:
            self.parts.make_whole()
        else:
            for part in self.parts.keep(assignment.blocks(self.rank)):
                for state in self.states:
                    state.forget(part)
        if assignment is None:
            return
        if self._keeps_reference:
            for part in self.parts.all:
                part.remember()
        self.protocol.begin_round(self.parts)

    def _on_mean_of_block(self, block: int) -> None:
        self._on_means([self.parts.blocks[block]])

    def _on_means(self, parts: Sequence[Part]) -> None:
        if not self._changes_means:
            return
        for part in parts:
            if part.staged is not None:
                self.protocol.on_mean(part, part.staged)

    @property
    def _everything(self) -> Assignment:
        return Assignment.full(self.num_workers, self.parts.num_blocks)
