"""What all workers have to know about the states that travel, before they can be staged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .agreement import tell_all
from .guard import Guard
from .states import TravellingState

__all__ = ['learn_from_all']


def learn_from_all(guard: Guard, states: Sequence[TravellingState], news: Sequence[Any]) -> None:
    """Let all workers learn what one of them has found out; to be called by all of them.

    Args:
        guard (Guard): Of this worker.
        states (Sequence[TravellingState]): What travels, the same on all workers.
        news (Sequence): What :meth:`TravellingState.prepare` of each returned.

    Raises:
        ExchangeRefused: If it failed on another worker.
    """
    told = tell_all(list(news))
    with guard.all_or_none('agreeing on what travels'):
        for state, of_workers in zip(states, zip(*told, strict=True), strict=True):
            if any(of_worker is not None for of_worker in of_workers):
                state.learn(of_workers)
