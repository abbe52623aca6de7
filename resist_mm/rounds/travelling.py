"""What travels in an exchange, settled by all workers together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .agreement import tell_all
from .guard import Guard
from .states import TravellingState

__all__ = ['agree_on_travelling']


def agree_on_travelling(guard: Guard, choose: Callable[[], Sequence[TravellingState]]) -> list[TravellingState]:
    """Choose states, prepare them, and let all workers learn what one of them has found out.

    Args:
        guard (Guard): Of this worker.
        choose (Callable): Says what travels, the same on all workers. Must not communicate.

    Raises:
        ExchangeRefused: If it failed on another worker.
    """
    with guard.all_or_none('choosing what travels') as vote:
        states = list(choose())
        news = [state.prepare() for state in states]
        vote.has_news = any(of_state is not None for of_state in news)
    if vote.with_news:
        told = tell_all(news)
        with guard.all_or_none('agreeing on what travels'):
            for state, of_workers in zip(states, zip(*told, strict=True), strict=True):
                state.learn(of_workers)
    return states
