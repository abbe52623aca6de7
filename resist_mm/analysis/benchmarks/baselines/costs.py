"""What an iteration of each method consists of, by name; seconds of a run are put together from these."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ['LOCAL', 'Costs', 'Pace', 'averaged', 'costs_until', 'data_parallel', 'rounds']

LOCAL = ('local', 'sub-ResNet')  # iterations without communication


@dataclass(frozen=True)
class Pace:
    """When something happens.

    Attributes:
        local_iters: Iterations between two means of the weights.
        warm_up: Iterations of data-parallel training that some methods begin with.
    """

    local_iters: int
    warm_up: int


Costs = Callable[[int, bool, Pace], list[str]]
"""Costs of an iteration: its number, from 1; whether the whole model is wanted after it; the pace."""


def data_parallel(cost: str, warm_up: bool = False) -> Costs:
    """An iteration in which gradients are averaged, in another way after the warm-up if there is one."""

    def costs(number: int, whole: bool, pace: Pace) -> list[str]:
        return ['data-parallel' if warm_up and number <= pace.warm_up else cost]

    return costs


def averaged(warm_up: bool = False, pairs: bool = False) -> Costs:
    """A local iteration, and maybe a mean; in the warm-up a data-parallel one."""

    def costs(number: int, whole: bool, pace: Pace) -> list[str]:
        first = pace.warm_up if warm_up else 0
        found = ['data-parallel' if number <= first else 'local']
        if number >= first and (number - first) % pace.local_iters == 0 and (number > first or warm_up):
            of_pairs = pairs and number % (2 * pace.local_iters)
            found.append('average of pairs' if of_pairs else 'average')
        return found

    return costs


def rounds(name: str, deals: bool, has_whole: bool) -> Costs:
    """An iteration of a round, and at its end an exchange; one that makes the model whole may cost more."""

    def costs(number: int, whole: bool, pace: Pace) -> list[str]:
        found = ['sub-ResNet' if deals else 'local']
        if whole or number % pace.local_iters == 0:
            found.append(f'whole {name}' if whole and has_whole else f'exchange {name}')
        return found

    return costs


def costs_until(costs: Costs, number: int, pace: Pace) -> Counter[str]:
    """How often each cost occurs in a run of some length that ends with the whole model."""
    found: Counter[str] = Counter()
    for index in range(1, number + 1):
        found.update(costs(index, index == number, pace))
    return found
