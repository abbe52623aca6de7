"""Two pictures of the comparison: seconds to an accuracy by link, and bytes by method."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from ...pictures.style import GREY, INK, SLATE, new_figure, readme_style, save, worker_colour
from ..delayed_links import parse_link
from ..shaped_links import bits_of
from .composition import Row
from .methods import METHODS

__all__ = ['draw']

GB = 1e9
ROOM = 4.0  # right of the longest bar for its number, as a factor: axes are logarithmic
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
    panels = figure.subplots(1, len(links), sharex=True, sharey=True, squeeze=False)[0]
    for axes, link in zip(panels, links, strict=True):
        of_link = {row.method: row.reached[accuracy] for row in rows if row.link == link}
        _bars(axes, names, [of_link.get(name) for name in names], '{:,.0f}')
        axes.set_title(_in_words(link))
    _name(panels[0], names)
    known = [seconds for row in rows if (seconds := row.reached[accuracy]) is not None]
    panels[0].set_xlim(min(known) / 2, max(known) * ROOM)
    panels[len(links) // 2].set_xlabel(
        f'seconds to {accuracy:g}% of test accuracy, logarithmic (no bar: not reached or not known)'
    )
    return save(figure, folder / 'baselines_time')


def _draw_bytes(rows: Sequence[Row], links: Sequence[str], folder: Path) -> list[Path]:
    of_links: dict[str, list[float]] = {}
    for row in rows:
        if row.nbytes and row.link in links:
            of_links.setdefault(row.method, []).append(row.nbytes / GB)
    sent = {name: mean(values) for name, values in of_links.items()}  # packets differ a little
    names = sorted(sent, key=sent.__getitem__, reverse=True)
    figure = new_figure(0.8 + BAR * len(names))
    axes = figure.subplots()
    _bars(axes, names, [sent[name] for name in names], '{:.2f}')
    _name(axes, names)
    axes.set_xlim(min(sent.values()) / 2, max(sent.values()) * ROOM)
    axes.set_xlabel('GB that all workers send in the run, logarithmic')
    return save(figure, folder / 'baselines_bytes')


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float | None], text: str) -> None:
    for place, (name, value) in enumerate(zip(names, values, strict=True)):
        if value is not None:
            ours = METHODS[name].ours
            axes.barh(place, value, 0.7, color=worker_colour(0) if ours else GREY)
            where: dict[str, Any] = dict(textcoords='offset points', va='center', fontsize=8)
            axes.annotate(text.format(value), (value, place), (3, 0), **where)
    # the numbers are beside the bars
    axes.set_xscale('log')
    axes.tick_params(which='both', length=0, labelbottom=False)
    axes.spines['bottom'].set_visible(False)


def _name(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [METHODS[name].title for name in names])
    for label, name in zip(axes.get_yticklabels(), names, strict=True):
        label.set_color(INK if METHODS[name].ours else SLATE)
    axes.set_ylim(len(names) - 0.5, -0.5)


def _in_words(link: str) -> str:
    """A link as a title: '10 Mbit/s, 40 ms'."""
    found = parse_link(link)
    delay = f', {1000 * found.delay_sec:.0f} ms' if found.delay_sec else ''
    return f'{bits_of(found.rate) / 1e6:,g} Mbit/s{delay}'
