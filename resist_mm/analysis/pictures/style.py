"""How all pictures look: colour means worker, all else is grey; text is readable at the width of a README."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

__all__ = ['GREY', 'INK', 'PALE', 'SLATE', 'WIDTH']
__all__ += ['label_ends', 'new_figure', 'on_colour', 'readme_style', 'save', 'worker_colour']

INK, SLATE, GREY, PALE = '#0f172a', '#64748b', '#a3adbb', '#e2e8f0'
# Paul Tol's "bright" scheme and two of his "vibrant" one: told apart with any kind of colour vision
WORKERS = ['#4477aa', '#ee6677', '#228833', '#ccbb44', '#66ccee', '#aa3377', '#ee7733', '#009988']
WIDTH = 8.0
"""Inches, shown as 800 pixels: a point of text is 1.4 pixels then, so that 7 points are the least to use."""

RC: dict[Any, Any] = {
    'font.family': 'sans-serif',
    # what a browser takes if DejaVu Sans, of which the widths are known here, is missing: no wider
    'font.sans-serif': ['DejaVu Sans', 'Verdana', 'Helvetica', 'Arial'],
    'font.size': 9,
    'axes.titlesize': 9,
    'axes.titleweight': 'bold',
    'axes.titlelocation': 'left',
    'axes.edgecolor': GREY,
    'axes.labelcolor': SLATE,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'text.color': INK,
    'xtick.color': SLATE,
    'ytick.color': SLATE,
    'xtick.labelsize': 8,
    'ytick.labelsize': 8,
    'svg.fonttype': 'none',  # text stays text: it can be found and read aloud
    'svg.hashsalt': 'resist_mm',  # the same picture gives the same file
}


def readme_style() -> AbstractContextManager:
    """The style; whatever draws or saves a picture runs inside it."""
    return matplotlib.rc_context(RC)


def worker_colour(worker: int) -> str:
    """The colour of a worker, the same in every picture, whatever the number of workers."""
    if worker < len(WORKERS):
        return WORKERS[worker]
    # the golden ratio spreads hues evenly, however many there will be
    red, green, blue = colorsys.hls_to_rgb((worker * 0.618034) % 1, 0.42 + 0.2 * (worker % 2), 0.6)
    return f'#{round(255 * red):02x}{round(255 * green):02x}{round(255 * blue):02x}'


def on_colour(colour: str) -> str:
    """The colour of text on a colour."""
    red, green, blue = to_rgb(colour)
    return 'white' if 0.299 * red + 0.587 * green + 0.114 * blue < 0.5 else INK


def new_figure(height: float) -> Figure:
    """A figure as wide as a README.

    Args:
        height (float): Inches.
    """
    return plt.figure(figsize=(WIDTH, height), layout='constrained')


def label_ends(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Label lines at their right ends, moved apart where they would overlap.

    Args:
        axes (Axes): With its final limits and height.
        labels (Sequence[tuple[float, str, str]]): Height of the end in data coordinates, text and colour.
    """
    inches = axes.get_window_extent().height / axes.figure.dpi
    gap = 10.5 / 72 / inches  # the height of a line of text, as a share of that of the axes
    places = axes.transAxes.inverted().transform([axes.transData.transform((0, end)) for end, _, _ in labels])
    order = sorted(range(len(labels)), key=lambda index: places[index][1])
    heights: list[float] = []
    for index in order:
        heights.append(max(float(places[index][1]), heights[-1] + gap if heights else 0.0))
    for place in reversed(range(len(heights))):  # back below the upper edge
        limit = heights[place + 1] - gap if place + 1 < len(heights) else 1.0
        heights[place] = min(heights[place], limit)
    for height, index in zip(heights, order, strict=True):
        _, text, colour = labels[index]
        where: dict[str, Any] = dict(xycoords='axes fraction', textcoords='offset points', va='center')
        axes.annotate(text, (1, height), (5, 0), color=colour, fontsize=8, **where)


def save(figure: Figure, path: Path) -> list[Path]:
    """Save a figure as PNG and as SVG.

    Args:
        figure (Figure): Closed afterwards.
        path (Path): Without a suffix. Folders are made.

    Returns:
        list[Path]: The two files.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files = [path.with_name(f'{path.name}.{suffix}') for suffix in ('png', 'svg')]
    figure.savefig(files[0], dpi=200)  # twice as fine as it is shown
    figure.savefig(files[1], metadata={'Date': None})
    plt.close(figure)
    return files
