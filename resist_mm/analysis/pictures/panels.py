"""The curves of a run: losses, a metric, seconds and bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..runs import RunSummary
from .style import GREY, INK, SLATE, label_ends

__all__ = [
    'NOT_METRICS',
    'bytes_of_rounds',
    'loss_curves',
    'losses',
    'metrics_of',
    'seconds_of_iterations',
    'seconds_of_rounds',
]
__all__ += ['validated']

NOT_METRICS = {'time', 'data_time', 'step'}
SHOWN_COMPONENTS = 3
LOG_FROM = 30  # a loss that falls by more than this factor needs a logarithmic axis
MARKER: dict[str, Any] = dict(marker='o', markersize=3.5, clip_on=False)

Labels = list[tuple[float, str, str]]
"""Right ends of lines: height, text and colour."""


def metrics_of(run: RunSummary) -> list[str]:
    """Names of the metrics of validations, in the order in which they were logged; losses are none."""
    return [name for name in _validated_names(run) if name not in NOT_METRICS and 'loss' not in name]


def _validated_names(run: RunSummary) -> list[str]:
    names = dict.fromkeys(name for metrics in run.validations.values() for name in metrics)
    return [name for name in names if _validations(run, name)]


def losses(axes: Axes, run: RunSummary) -> Callable[[], None]:
    """Training losses and, if it was logged, the validation loss.

    Returns:
        Callable: To be called once the axes have their final size; labels the lines.
    """
    curves = loss_curves(run)
    colours = [INK, *[GREY] * (len(curves) - 1)]
    ends: Labels = []
    for (name, points), colour in reversed(list(zip(curves.items(), colours, strict=True))):
        axes.plot(*zip(*points, strict=True), color=colour, linewidth=1.5 if colour == INK else 1)
        ends.append((_last(points), name, INK if colour == INK else SLATE))
    names = [name for name in _validated_names(run) if 'loss' in name]
    for name in names:
        points = _validations(run, name)
        axes.plot(
            *zip(*points, strict=True), ':', color=INK, linewidth=1, **{**MARKER, 'markerfacecolor': 'white'}
        )
        ends.append((_last(points), 'validation' if len(names) == 1 else f'validation: {name}', INK))
    drawn = _drawn(axes)
    whole = [y for _, y in next(iter(curves.values()))]
    if min(drawn) > 0 and max(whole) > LOG_FROM * min(whole):
        axes.set_yscale('log')
    else:
        _from_zero(axes)
    _by_iteration(axes, run)
    axes.set_title('losses; training: worker 0')
    return lambda: label_ends(axes, ends)


def loss_curves(run: RunSummary) -> dict[str, list[tuple[int, float]]]:
    """Training losses by name, where they are finite: the total first, then its largest components."""
    by_name: dict[str, list[tuple[int, float]]] = {}
    for at, values in sorted(run.losses.items()):
        for name, value in values.items():
            if isfinite(value):
                by_name.setdefault(name, []).append((at, value))
    parts = sorted((name for name in by_name if name != 'loss'), key=lambda name: -by_name[name][0][1])
    if len(parts) == 1 and 'loss' in by_name:  # the same once more
        parts = []
    return {name: by_name[name] for name in [*['loss'] * ('loss' in by_name), *parts[:SHOWN_COMPONENTS]]}


def validated(axes: Axes, run: RunSummary, names: Sequence[str]) -> Callable[[], None]:
    """Metrics of the whole model, by validation.

    Returns:
        Callable: As :func:`losses` does.
    """
    ends: Labels = []
    for name in names:
        points = _validations(run, name)
        axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.5, **MARKER)
        value = f'{_last(points):.4g}'
        ends.append((_last(points), value if len(names) == 1 else f'{name} {value}', INK))
    _by_iteration(axes, run)
    _from_zero(axes)
    axes.set_title(f'{names[0]}, validation' if len(names) == 1 else 'metrics of the validation')
    return lambda: label_ends(axes, ends)


def _validations(run: RunSummary, name: str) -> list[tuple[int, float]]:
    logged = [(run.validated_at[step], m[name]) for step, m in run.validations.items() if name in m]
    return sorted((at, value) for at, value in logged if isfinite(value))


def _last(points: Sequence[tuple[int, float]]) -> float:
    return points[-1][1]


def _from_zero(axes: Axes) -> None:
    """Begin the axis at 0, or below what is below it; with room above."""
    values = _drawn(axes)
    axes.set_ylim(min(0, *values), 1.08 * max(values) or 1)


def _drawn(axes: Axes) -> list[float]:
    lines: Any = [line.get_ydata() for line in axes.lines]
    return [y for line in lines for y in line]


def _by_iteration(axes: Axes, run: RunSummary) -> None:
    axes.set(xlabel='iteration', xlim=(0, max([*run.iterations, *run.validated_at.values()])))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    for at in run.resumed_at:
        axes.axvline(at, color=GREY, linewidth=0.8, linestyle=(0, (2, 2)))
        axes.annotate('resumed', (at, 1), (3, -3), xycoords=('data', 'axes fraction'), textcoords='offset points',
                      fontsize=7, color=SLATE, va='top')  # fmt: skip


def seconds_of_rounds(axes: Axes, run: RunSummary) -> Callable[[], None]:
    """Compute, and on top of it the exchange.

    Returns:
        Callable: As :func:`losses` does.
    """
    compute = _by_round(run, 'compute_sec')
    both = [a + b for a, b in zip(compute, _by_round(run, 'exchange_sec'), strict=True)]
    edges = _edges(run)
    axes.stairs(compute, edges, fill=True, color=GREY)
    axes.stairs(both, edges, baseline=compute, fill=True, color=INK)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None), xlabel='round')
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title('seconds per round, worker 0')
    last = max(run.rounds) - min(run.rounds)
    ends = [(compute[last] / 2, 'compute', SLATE), ((compute[last] + both[last]) / 2, 'exchange', INK)]
    return lambda: label_ends(axes, ends)


def bytes_of_rounds(axes: Axes, run: RunSummary) -> Callable[[], None]:
    """What all workers together sent.

    Returns:
        Callable: As :func:`losses` does.
    """
    sent, edges = _by_round(run, 'total_mb'), _edges(run)
    axes.stairs(sent, edges, fill=True, color=GREY)
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None), xlabel='round')
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_title('MB sent per round, all workers')
    usual = sorted(sent)[len(sent) // 2]
    ends = [(usual, f'{usual:.4g}', INK)]
    whole = [index for index, of_round in run.held.items() if of_round.whole and index in run.rounds]
    highest = max((run.rounds[index]['total_mb'] for index in whole), default=0.0)
    if highest > 1.02 * usual:
        of_whole = [mb * (index in whole) for index, mb in enumerate(sent, min(run.rounds))]
        axes.stairs(of_whole, edges, fill=True, color=SLATE)
        ends.append((highest, f'{highest:.4g} whole model', SLATE))
    return lambda: label_ends(axes, ends)


def _by_round(run: RunSummary, key: str) -> list[float]:
    """One value for each round from the first to the last; 0 where none was logged."""
    return [run.rounds[i][key] if i in run.rounds else 0.0 for i in range(min(run.rounds), max(run.rounds) + 1)]


def _edges(run: RunSummary) -> list[float]:
    return [index - 0.5 for index in range(min(run.rounds), max(run.rounds) + 2)]


def seconds_of_iterations(axes: Axes, run: RunSummary) -> Callable[[], None]:
    """Seconds per iteration of a run without rounds.

    Returns:
        Callable: As :func:`losses` does.
    """
    points = sorted(run.iterations.items())
    axes.plot(*zip(*points, strict=True), color=INK, linewidth=1.5)
    _from_zero(axes)
    _by_iteration(axes, run)
    axes.set_title('seconds per iteration, worker 0')
    return lambda: label_ends(axes, [(_last(points), f'{_last(points):.3g}', INK)])
