"""Puts seconds together: of accuracies that do not depend on the link, and of costs that were timed on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median

from .costs import LOCAL, Pace, costs_until
from .methods import METHODS
from .records import Records

__all__ = ['Row', 'costs_on', 'row_of', 'seconds_of']


@dataclass(frozen=True)
class Row:
    """A method on a link.

    Attributes:
        method: Its name.
        link: The link.
        seeds: Seeds with which it was trained.
        accuracies: In % at the end, by seed; empty if it was not trained.
        seconds: Of the whole run; None if a cost was not timed.
        nbytes: That all workers send in the run, on the link.
        reached: By accuracy in %: seconds, a mean over seeds; None if it was not reached with every seed.
    """

    method: str
    link: str
    seeds: tuple[int, ...]
    accuracies: tuple[float, ...]
    seconds: float | None
    nbytes: float | None
    reached: dict[float, float | None]


def seconds_of(records: Records, method: str, link: str, number: int, pace: Pace) -> tuple[float, float] | None:
    """Seconds and bytes of a run of some length that ends with the whole model; None: a cost is missing."""
    counts = costs_until(METHODS[method].costs, number, pace)
    costs = costs_on(records, link)
    if counts.keys() - costs.keys():
        return None
    pairs = [(count, costs[cost]) for cost, count in counts.items()]
    return sum(n * of['seconds'] for n, of in pairs), sum(n * of['bytes'] for n, of in pairs)


def costs_on(records: Records, link: str) -> dict[str, dict[str, float]]:
    """Costs on a link; of an iteration without communication the median over all links, which cannot matter."""
    found: dict[str, dict[str, float]] = {}
    for record in records.all('seconds', link=link):
        found.update(record['costs'])
    everywhere = [record['costs'] for record in records.all('seconds')]
    for cost in set(LOCAL) & found.keys():
        found[cost] = dict(found[cost], seconds=median(of[cost]['seconds'] for of in everywhere if cost in of))
    return found


def row_of(
    records: Records, method: str, link: str, iters: int, pace: Pace, wanted: Sequence[float]
) -> Row | None:
    """What is known of a method on a link; None if it was neither trained nor timed.

    Args:
        records (Records): Of the comparison.
        method (str): Its name.
        link (str): The link.
        iters (int): Iterations of the runs.
        pace (Pace): Of the runs.
        wanted (Sequence[float]): Accuracies in %.
    """
    runs = sorted(records.all('accuracy', method=method, iters=iters), key=lambda run: run['key']['seed'])
    total = seconds_of(records, method, link, iters, pace)
    if not runs and total is None:
        return None
    reached: dict[float, float | None] = {}
    for accuracy in wanted:
        numbers = [iterations_to(run['points'], accuracy) for run in runs]
        of_seeds = [None if n is None else _between(records, method, link, n, pace) for n in numbers]
        known = [seconds for seconds in of_seeds if seconds is not None]
        reached[accuracy] = mean(known) if known and len(known) == len(runs) else None
    return Row(
        method,
        link,
        tuple(run['key']['seed'] for run in runs),
        tuple(run['points'][-1][1] for run in runs),
        None if total is None else total[0],
        None if total is None else total[1],
        reached,
    )


def iterations_to(points: Sequence[tuple[int, float]], accuracy: float) -> tuple[int, int, float] | None:
    """The evaluations between which an accuracy is reached for the first time, and where between them, 0 to 1."""
    before: tuple[int, float] | None = None
    for number, found in points:
        if found >= accuracy:
            if before is None:
                return number, number, 1.0
            return before[0], number, (accuracy - before[1]) / (found - before[1])
        before = (number, found)
    return None


def _between(records: Records, method: str, link: str, place: tuple[int, int, float], pace: Pace) -> float | None:
    ends = [seconds_of(records, method, link, number, pace) for number in place[:2]]
    if ends[0] is None or ends[1] is None:
        return None
    return ends[0][0] + place[2] * (ends[1][0] - ends[0][0])
