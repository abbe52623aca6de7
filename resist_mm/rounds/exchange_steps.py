"""The steps of an exchange that may fail: all that comes before it is accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.exchange.process_group import check_group_size
from resist_mm.partition import Assignment

from .bad_rounds import BadRounds
from .copies import Restored
from .guard import Guard, Vote
from .health import examine
from .means import Means
from .overlap import Overlap
from .part import Parts
from .protocols import RoundProtocol
from .recovery import Recovery
from .round_start import Remaining, RoundStart
from .staging import StagedExchange
from .states import TravellingState
from .travelling import learn_from_all
from .whereabouts import LostWorker

__all__ = ['ExchangeSteps']


class ExchangeSteps:
    """Plans, stages and carries out an exchange; ends with results that all workers have accepted.

    The workers vote twice: before anything is sent, so that nobody waits for one that has failed, and once all
    results are there. If nothing is wrong, that is all.

    Args:
        parts (Parts): Of this worker.
        states (Sequence[TravellingState]): Everything that may travel.
        protocol (RoundProtocol): Who holds what.
        transport (Transport): Moves the payloads.
        bad_rounds (BadRounds): What happens if numbers are bad.
        start (RoundStart): What this worker had when the round began.
        recovery (Recovery, optional): Lets the others go on if a worker is lost. Defaults to None: it ends them.
        overlap (Overlap, optional): What is averaged before the round ends. Defaults to None: nothing.
    """

    def __init__(
        self,
        parts: Parts,
        states: Sequence[TravellingState],
        protocol: RoundProtocol,
        transport: Transport,
        bad_rounds: BadRounds,
        start: RoundStart,
        recovery: Recovery | None = None,
        overlap: Overlap | None = None,
    ) -> None:
        self.parts, self.states, self.protocol, self.transport = parts, states, protocol, transport
        self.bad_rounds, self.start, self.recovery, self.overlap = bad_rounds, start, recovery, overlap
        self.guard = Guard(transport)
        self._means = Means(protocol, parts)
        self._staged: StagedExchange | None = None

    def begin(self, dealt: Assignment) -> None:
        """A round begins from the whole model."""
        if self.recovery is not None:
            self.recovery.begin(dealt)

    def prepare(
        self, round_index: int, old: Assignment, whole: bool, complaint: str, exact: bool
    ) -> tuple[StagedExchange, dict[int, list[str]]]:
        """Choose what travels, plan, and stage; also says which workers are left out already, and why."""
        with self.guard.all_or_none('preparing the exchange') as vote:
            states = self.protocol.travelling(self.states, round_index, whole)
            news = [state.prepare() for state in states]
            everything = Assignment.full(old.num_workers, old.num_blocks)
            following = everything if whole else self.protocol.assign(round_index + 1)
            staged = self._stage(states, old, following, exact)
            # what a codec makes of bad numbers need not show in the result
            is_bad = bool(complaint) or (staged.compresses and bool(examine(self.parts, states)))
            vote.has_news = is_bad or any(of_state is not None for of_state in news)
        if not vote.with_news:
            return staged, {}
        learn_from_all(self.guard, states, news)
        return self.leave_out_bad(round_index, old, staged, complaint)

    def leave_out_bad(
        self, round_index: int, old: Assignment, staged: StagedExchange, complaint: str
    ) -> tuple[StagedExchange, dict[int, list[str]]]:
        """Stage the exchange anew, without the workers whose numbers are bad, if there are any.

        Raises:
            BadNumbers: On all workers, if training has to stop.
        """
        complaints = [*examine(self.parts, staged.states), *filter(None, [complaint])]
        left_out = self.bad_rounds.judge(round_index, complaints, self.start.is_finite(staged.states))
        self._roll_back()
        with self.guard.all_or_none('staging the exchange anew'):
            again = self._stage(staged.states, old, staged.plan.new, staged.exact, left_out)
        return again, left_out

    def carry_out(self, round_index: int, staged: StagedExchange, whole: bool) -> tuple[Traffic, bool]:
        """Transfer, and do whatever may still fail then; also says whether all results are finite."""
        if self.overlap is not None:
            self.overlap.used = True  # before anything may fail on one worker alone
        traffic = self.transport.run(staged.plan, staged, partial(self._means.of_block, staged))
        traffic.buffers += staged.nbytes + self.start.nbytes + self.parts.residual_bytes
        if self.overlap is not None:
            traffic += self.overlap.take_traffic()
            traffic.buffers += self.overlap.nbytes
        if self.recovery is not None:
            self.recovery.stage(staged, self.transport, whole)
        with self._last_vote(round_index) as vote:
            self._means.of_everybody(staged)
            staged.get_ready()
            blocks = staged.plan.new.blocks(staged.rank)
            for state in self.staying(staged):
                for part in self.parts.held_with(blocks):
                    state.get_ready_to_restart(part)
            if not whole:
                self.start.make_room(blocks)
            if self.recovery is not None:
                self.recovery.copies.get_ready()
            vote.has_news = not self._means.finite
        return traffic, not vote.with_news

    def staying(self, staged: StagedExchange) -> list[TravellingState]:
        """The states that do not travel."""
        return [state for state in self.states if state not in staged.states]

    def commit(self, staged: StagedExchange, whole: bool) -> None:
        """The exchange is accepted by all workers: put all results in place. May not fail."""
        if self.recovery is not None:
            self.recovery.commit()
        staged.commit()
        if self.overlap is not None:
            self.overlap.discard()
        self.protocol.commit()
        for state in self.staying(staged):
            state.restart()
        for state in self.states if whole else ():
            state.become_whole()

    def go_on_without_lost(self, round_index: int, old: Assignment, error: LostWorker) -> Assignment:
        """Form a group of the workers that are left, to repeat the exchange; it has been rolled back.

        Returns:
            Assignment: Who holds which blocks now.

        Raises:
            LostWorker: If this is not wanted, or training cannot go on.
        """
        if self.recovery is None:
            raise error
        remaining, left = self.recovery.regroup(round_index, old, error)
        waited = self.transport.waited_sec
        self.transport = Transport(self.parts.device)
        self.transport.waited_sec = waited
        self.guard = Guard(self.transport)
        self.protocol.set_workers(left)
        return remaining

    @contextmanager
    def rolled_back_unless_accepted(self) -> Iterator[None]:
        """If the body fails, everything is as before it, but for gradients that may be gone."""
        self._means.forget()
        check_group_size(self.transport.num_workers)
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._staged = None

    @contextmanager
    def _last_vote(self, round_index: int) -> Iterator[Vote]:
        """The vote after which an exchange counts, unless there is news."""
        step = 'completing the exchange'
        if self.recovery is None:
            with self.guard.all_or_none(step) as vote:
                yield vote
        else:
            with self.recovery.last_vote(round_index), self.guard.all_or_none(step) as vote:
                yield vote
            if not vote.with_news:
                self.recovery.membership.accept(round_index)

    def _stage(
        self,
        states: Sequence[TravellingState],
        old: Assignment,
        following: Assignment,
        exact: bool,
        left_out: Collection[int] = (),
    ) -> StagedExchange:
        plan = ExchangePlan.between(Remaining(old, following, left_out) if left_out else old, following)
        rank, exact = self.transport.rank, exact or bool(left_out)
        start = self.start if rank in left_out else None
        undone: RoundStart | Restored | None = start
        if self.recovery is not None:
            # copies are not what a codec takes for known
            exact, undone = exact or self.recovery.under_way, self.recovery.source(rank, start)
        staged = StagedExchange(
            rank, self.parts, states, self._means.may_change, plan, exact, undone, self.overlap
        )
        self._staged = staged
        return staged

    def wait_for_overlap(self, whole: bool) -> None:
        """Wait for what was averaged while training; it is discarded if the model is made whole."""
        if self.overlap is not None:
            self.transport.waited_sec += self.overlap.wait()
            if whole:
                self.overlap.discard()

    def _roll_back(self) -> None:
        if self._staged is not None:
            self._staged.let_go()
            self._staged = None
        for state in self.states:
            state.roll_back()
        self.start.drop_unused_room()
        if self.overlap is not None and self.overlap.used:
            self.overlap.discard()
        self.protocol.roll_back()
        if self.recovery is not None:
            self.recovery.copies.drop_staged()
        self._means.forget()
