"""The steps of an exchange that may fail: all that comes before it is accepted."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from resist_mm.exchange import ExchangePlan, Traffic, Transport
from resist_mm.partition import Assignment

from .bad_rounds import BadRounds
from .guard import Guard
from .health import examine
from .means import Means
from .part import Parts
from .protocols import RoundProtocol
from .round_start import Remaining, RoundStart
from .staging import StagedExchange
from .states import TravellingState
from .travelling import learn_from_all

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
    """

    def __init__(
        self,
        parts: Parts,
        states: Sequence[TravellingState],
        protocol: RoundProtocol,
        transport: Transport,
        bad_rounds: BadRounds,
        start: RoundStart,
    ) -> None:
        self.parts, self.states, self.protocol, self.transport = parts, states, protocol, transport
        self.bad_rounds, self.start = bad_rounds, start
        self.guard = Guard(transport)
        self._means = Means(protocol, parts)
        self._staged: StagedExchange | None = None

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

    def carry_out(self, staged: StagedExchange, whole: bool) -> tuple[Traffic, bool]:
        """Transfer, and do whatever may still fail then; also says whether all results are finite."""
        traffic = self.transport.run(staged.plan, staged, partial(self._means.of_block, staged))
        traffic.buffers += staged.nbytes + self.start.nbytes + self.parts.residual_bytes
        with self.guard.all_or_none('completing the exchange') as vote:
            self._means.of_everybody(staged)
            staged.get_ready()
            blocks = staged.plan.new.blocks(staged.rank)
            for state in self.staying(staged):
                for part in self.parts.held_with(blocks):
                    state.get_ready_to_restart(part)
            if not whole:
                self.start.make_room(blocks)
            vote.has_news = not self._means.finite
        return traffic, not vote.with_news

    def staying(self, staged: StagedExchange) -> list[TravellingState]:
        """The states that do not travel."""
        return [state for state in self.states if state not in staged.states]

    @contextmanager
    def rolled_back_unless_accepted(self) -> Iterator[None]:
        """If the body fails, everything is as before it, but for gradients that may be gone."""
        self._means.forget()
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._staged = None

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
        undone = self.start if rank in left_out else None
        staged = StagedExchange(rank, self.parts, states, self._means.may_change, plan, exact, undone)
        self._staged = staged
        return staged

    def _roll_back(self) -> None:
        if self._staged is not None:
            self._staged.let_go()
            self._staged = None
        for state in self.states:
            state.roll_back()
        self.start.drop_unused_room()
        self.protocol.roll_back()
        self._means.forget()
