"""The figures that the commands draw. Imports matplotlib, so it is imported only where something is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from torch import Tensor

__all__ = ['plot_costs', 'plot_course', 'plot_losses', 'plot_training']

COLOURS = dict(resist='#2266aa', local_sgd='#ee8833', ddp='#888888', gpipe='#44aa77')
LINES = ['-', '--', ':', '-.']
PARTS = dict(compute='#2266aa', exchange='#ee8833', parameters='#2266aa', gradients='#66aadd')
PARTS.update(optimizer='#ee8833', activations='#cccccc')


def plot_costs(rows: list[dict[str, Any]], title: str, names: dict[str, str], path: str) -> None:
    """Draw totals of a run by protocol (as Fig. 4 and 8) and the cost of a round against workers.

    Args:
        rows (list[dict]): The objects that comm_cost.py prints.
        title (str): The network and the data set, in words.
        names (dict): The names of the protocols.
        path (str): The picture file; its suffix says the format.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained')
    workers = sorted({row['workers'] for row in rows})
    shown = 4 if 4 in workers else workers[-1]
    _totals(left, [row for row in rows if row['workers'] == shown], shown, names)
    for label in dict.fromkeys(_label(row, names) for row in rows):
        of_label = [row for row in rows if _label(row, names) == label]
        style = LINES[list(dict.fromkeys(row['codec'] for row in rows)).index(of_label[0]['codec']) % len(LINES)]
        right.plot(
            [row['workers'] for row in of_label],
            [row['wire_gb_per_round'] for row in of_label],
            style,
            marker='o',
            color=COLOURS[of_label[0]['protocol']],
            label=label,
        )
    right.set(yscale='log', xlabel='workers', ylabel='GB per round, wire counting', xticks=workers)
    right.set_title('A round, by number of workers')
    right.grid(alpha=0.3)
    right.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))
    fig.suptitle(title)
    _save(fig, path)


def _totals(axes: Axes, rows: list[dict[str, Any]], num_workers: int, names: dict[str, str]) -> None:
    unit = 'run' if all(row['paper_gb_per_run'] is not None for row in rows) else 'round'
    rows = sorted(rows, key=lambda row: row[f'paper_gb_per_{unit}'])
    places = range(len(rows))
    for way, offset, alpha in (('paper', -0.2, 0.45), ('wire', 0.2, 1.0)):
        widths = [row[f'{way}_gb_per_{unit}'] for row in rows]
        colours = [COLOURS[row['protocol']] for row in rows]
        bars = axes.barh([place + offset for place in places], widths, 0.38, color=colours, alpha=alpha)
        axes.bar_label(
            bars, [f'{width:,.{0 if width >= 100 else 3}f} {way}' for width in widths], padding=3, fontsize='small'
        )
    axes.set(xscale='log', xlabel=f'GB per {unit}, all workers together')
    axes.set_yticks(list(places), [_label(row, names) for row in rows])
    axes.set_xlim(right=8 * axes.get_xlim()[1])
    axes.invert_yaxis()
    axes.set_title(f'A {unit} of {num_workers} workers')


def _label(row: dict[str, Any], names: dict[str, str]) -> str:
    return names[row['protocol']] + ('' if row['codec'] == 'none' else f', {row["codec"]}')


def plot_training(
    seconds: dict[str, dict[str, float]], memory: dict[str, dict[str, float]], title: str, path: str
) -> None:
    """Draw stacked bars of seconds per iteration and of memory per worker, by protocol.

    Args:
        seconds (dict): By protocol: seconds of 'compute' and 'exchange' per iteration.
        memory (dict): By protocol: MB of 'parameters', 'gradients', 'optimizer', 'activations'.
        title (str): What was measured, in words.
        path (str): The picture file; its suffix says the format.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout='constrained')
    for axes, bars, ylabel in (
        (left, seconds, 'seconds per iteration'),
        (right, memory, 'MB of a worker'),
    ):
        bottoms = [0.0] * len(bars)
        for part in next(iter(bars.values())):
            heights = [parts[part] for parts in bars.values()]
            axes.bar(list(bars), heights, 0.6, bottom=bottoms, color=PARTS[part], label=part)
            bottoms = [bottom + height for bottom, height in zip(bottoms, heights, strict=True)]
        axes.set_ylabel(ylabel)
        axes.legend(fontsize='small')
    fig.suptitle(title)
    _save(fig, path)


def plot_losses(losses: Mapping[str, Mapping[int, Tensor]], path: Path) -> None:
    """Draw losses over the rounds, one panel for each parameter that was varied.

    Args:
        losses (Mapping): By parameter and its value: a loss for every round.
        path (Path): The picture file; its suffix says the format.
    """
    fig, axes = plt.subplots(1, len(losses), figsize=(4 * len(losses), 3.5), sharey=True)
    for axis, (name, by_value) in zip(axes, losses.items(), strict=True):
        for value, of_rounds in by_value.items():
            axis.semilogy(of_rounds, label=str(value))
        axis.set(title=name.replace('_', ' '), xlabel='round')
        axis.legend()
    axes[0].set_ylabel('loss of the whole network')
    _save(fig, str(path), bbox_inches='tight')


def plot_course(courses: list[dict[str, Any]], by: str, xlabel: str, ylabel: str, title: str, path: str) -> None:
    """Draw a metric against what training has cost, a line for each run.

    Args:
        courses (list[dict]): Of the runs: ``label``, ``protocol`` ('resist', 'local-sgd' or 'ddp'), ``values`` of
            the metric, and costs by name, of the same length. Runs with one label, such as seeds, look alike.
        by (str): Name of the costs to draw; positive numbers.
        xlabel (str): The costs, in words.
        ylabel (str): The metric, in words.
        title (str): What was trained, in words.
        path (str): The picture file; its suffix says the format.
    """
    fig, axes = plt.subplots(figsize=(7, 4.5), layout='constrained')
    labels = list(dict.fromkeys(course['label'] for course in courses))
    styles: dict[str, tuple[str, str]] = {}
    for label in labels:
        protocol = next(course['protocol'] for course in courses if course['label'] == label).replace('-', '_')
        before = [style for style in styles.values() if style[0] == COLOURS[protocol]]
        styles[label] = (COLOURS[protocol], LINES[len(before) % len(LINES)])
    shown: set[str] = set()
    for course in courses:
        label = course['label']
        colour, line = styles[label]
        axes.plot(
            course[by],
            course['values'],
            line,
            color=colour,
            marker='.',
            markersize=3,
            linewidth=1.2,
            label=None if label in shown else label,
        )
        shown.add(label)
    axes.set(xscale='log', xlabel=xlabel, ylabel=ylabel, title=title)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter('{x:,g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3)
    axes.legend(fontsize='small')
    _save(fig, path)


def _save(fig: Figure, path: str, bbox_inches: str | None = None) -> None:
    """Write and close a figure. The same picture gives the same file, as SVG too."""
    metadata = {'Date': None} if path.endswith('.svg') else None
    with plt.rc_context({'svg.hashsalt': 'resist_mm'}):
        fig.savefig(path, dpi=120, bbox_inches=bbox_inches, metadata=metadata)
    plt.close(fig)
