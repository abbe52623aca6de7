"""Two pictures of the comparison: seconds to an accuracy by link, and bytes by method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes

from ...pictures.style import GREY, INK, SLATE, new_figure, readme_style, save, worker_colour
from .composition import Row
from .methods import METHODS

__all__ = ['draw']

GB = 1e9
ROOM = 3.0  # right of the longest bar for its number, as a factor: axes are logarithmic
BAR = 0.2  # inches


def draw(rows: Sequence[Row], links: Sequence[str], accuracy: float, folder: Path) -> list[Path]:
    """Draw ``baselines_time`` and ``baselines_bytes``, each as PNG and as SVG.

    Args:
        rows (Sequence[Row]): Of the table.
        links (Sequence[str]): Left to right.
        accuracy (float): In %; methods that do not reach it with every seed have no bar.
        folder (Path): Made if it does not exist.

    Raises:
        ValueError: If nothing reaches the accuracy on any of the links.
    """
    if all(row.reached[accuracy] is None for row in rows):
        raise ValueError(
            f'--wanted {accuracy:g}: no method has reached this accuracy, so there is nothing to draw'
        )
    with readme_style():
        return _draw_time(rows, links, accuracy, folder) + _draw_bytes(rows, links, folder)


def _draw_time(rows: Sequence[Row], links: Sequence[str], accuracy: float, folder: Path) -> list[Path]:
    names = list(dict.fromkeys(row.method for row in rows))
    figure = new_figure(1.0 + BAR * len(names))
    panels = figure.subplots(1, len(links), sharey=True, squeeze=False)[0]
    for axes, link in zip(panels, links, strict=True):
        of_link = {row.method: row.reached[accuracy] for row in rows if row.link == link}
        _bars(axes, names, [of_link.get(name) for name in names], '{:,.0f}')
        axes.set_title(link.replace('bit+', 'bit/s, ').replace('ms', ' ms').replace('m', 'M', 1))
    panels[len(links) // 2].set_xlabel(f'seconds to {accuracy:g}% of test accuracy (no bar: not reached)')
    return save(figure, folder / 'baselines_time')


def _draw_bytes(rows: Sequence[Row], links: Sequence[str], folder: Path) -> list[Path]:
    sent = {row.method: row.nbytes / GB for link in links for row in rows if row.link == link and row.nbytes}
    names = sorted(sent, key=sent.__getitem__, reverse=True)
    figure = new_figure(0.8 + BAR * len(names))
    axes = figure.subplots()
    _bars(axes, names, [sent[name] for name in names], '{:.2f}')
    axes.set_xlabel('GB that all workers send in the run')
    return save(figure, folder / 'baselines_bytes')


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float | None], text: str) -> None:
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is not None:
            ours = METHODS[name].ours
            axes.barh(place, value, 0.7, color=worker_colour(0) if ours else GREY)
            axes.annotate(text.format(value), (value, place), (3, 0), textcoords='offset points', va='center')
    axes.set_xscale('log')
    axes.set_yticks(range(len(names)), [METHODS[name].title for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(INK if METHODS[name].ours else SLATE)
    axes.tick_params(axis='y', length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    known = [value for value in values if value is not None]
    if known:
        axes.set_xlim(min(known) / 2, max(known) * ROOM)
