"""The map of who held which block, by round."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from ..runs import HeldRound
from .style import INK, PALE, SLATE, on_colour, worker_colour

__all__ = ['Cell', 'block_map', 'cells_of']

ALL = '#cbd5e1'
DIGIT = 7  # points
MOST_LISTED = 12
LEFT_OUT = '×'  # noqa: RUF001


class Cell(NamedTuple):
    """What a worker held of a block in a round; several workers divide the square of a block between them.

    Attributes:
        round: Index of the round.
        block: The partitioned block.
        worker: The holder; None: all workers.
        place: Its place among the holders, from 0.
        holders: Number of holders.
        counts: Whether its round counted; not if its numbers were bad.
    """

    round: int
    block: int
    worker: int | None
    place: int = 0
    holders: int = 1
    counts: bool = True


def cells_of(held: Mapping[int, HeldRound]) -> list[Cell]:
    """Who held which block, as cells to draw."""
    cells = []
    for index, of_round in held.items():
        for block in range(of_round.num_blocks):
            if of_round.blocks_of_workers is None:
                cells.append(Cell(index, block, None))
                continue
            holders = [w for w, blocks in enumerate(of_round.blocks_of_workers) if block in blocks]
            for place, worker in enumerate(holders):
                cells.append(Cell(index, block, worker, place, len(holders), worker not in of_round.left_out))
    return cells


def block_map(axes: Axes, held: Mapping[int, HeldRound], total: int) -> None:
    """Draw the map: a column for each round, a row for each block, in the colours of the workers.

    Args:
        axes (Axes): Of the size at which it will be shown.
        held (Mapping[int, HeldRound]): The rounds to show.
        total (int): Number of rounds of the whole run.
    """
    cells = cells_of(held)
    first, last = min(held), max(held)
    blocks = 1 + max(cell.block for cell in cells)
    colours = [ALL if cell.worker is None else worker_colour(cell.worker) for cell in cells]
    boxes = [
        Rectangle((cell.round - 0.5 + cell.place / cell.holders, cell.block - 0.5), 1 / cell.holders, 1)
        for cell in cells
    ]
    axes.add_collection(PatchCollection(boxes, facecolor=colours, edgecolor='none', antialiased=False))
    lines: dict[str, Any] = dict(colors='white', linewidth=0.7)
    axes.vlines([index + 0.5 for index in range(first, last)], -0.5, blocks - 0.5, **lines)
    axes.hlines([block + 0.5 for block in range(blocks - 1)], first - 0.5, last + 0.5, **lines)
    shown = '' if len(held) == total else f' ({first} to {last} of {total} rounds)'
    axes.set(xlim=(first - 0.5, last + 0.5), ylim=(blocks - 0.5, -0.5), xlabel=f'round{shown}', ylabel='block')
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_facecolor(PALE if len(held) < last - first + 1 else 'white')  # a round that was not recorded
    axes.set_title('who held which partitioned block')
    _write_numbers(axes, cells)
    _explain_colours(axes, cells)


def _write_numbers(axes: Axes, cells: list[Cell]) -> None:
    """Write the number of the worker where there is room, so that colour alone need not tell."""
    box = axes.get_window_extent()
    points = 72 / axes.figure.dpi
    width = points * box.width / abs(axes.get_xlim()[1] - axes.get_xlim()[0])
    height = points * box.height / abs(axes.get_ylim()[1] - axes.get_ylim()[0])
    numbered = [cell for cell in cells if cell.worker is not None and cell.counts]
    # all or none: that only some have a number would seem to say something
    fits = height > DIGIT + 1 and all(
        width / cell.holders > 0.75 * DIGIT * len(str(cell.worker)) for cell in numbered
    )
    middle: dict[str, Any] = dict(ha='center', va='center_baseline')
    for cell in numbered if fits else []:
        colour = on_colour(worker_colour(cell.worker or 0))
        axes.text(*_centre(cell), str(cell.worker), color=colour, fontsize=DIGIT, **middle)
    for cell in cells:
        if not cell.counts:
            axes.text(*_centre(cell), LEFT_OUT, color=INK, fontsize=DIGIT + 2, weight='bold', **middle)


def _centre(cell: Cell) -> tuple[float, float]:
    return cell.round - 0.5 + (cell.place + 0.5) / cell.holders, cell.block


def _explain_colours(axes: Axes, cells: list[Cell]) -> None:
    """A line above the map at the right: the workers in their colours."""
    workers = sorted({cell.worker for cell in cells if cell.worker is not None})
    parts: list[tuple[str, str, str | None]] = [('worker', SLATE, None)] if workers else []
    listed = workers if len(workers) <= MOST_LISTED else [*workers[: MOST_LISTED - 1], workers[-1]]
    for worker in listed:
        parts += [('…', SLATE, None)] if worker == listed[-1] and len(listed) < len(workers) else []
        parts.append((str(worker), on_colour(worker_colour(worker)), worker_colour(worker)))
    if any(cell.worker is None for cell in cells):
        parts.append(('all workers', INK, ALL))
    if not all(cell.counts for cell in cells):
        parts.append((f'{LEFT_OUT} left out: bad numbers', INK, None))
    right = 0.0  # points
    for text, colour, ground in reversed(parts):
        patch = None if ground is None else dict(boxstyle='square,pad=0.25', facecolor=ground, edgecolor='none')
        where: dict[str, Any] = dict(
            xycoords='axes fraction', textcoords='offset points', ha='right', va='baseline'
        )
        drawn = axes.annotate(text, (1, 1), (right - 3, 7), fontsize=8, color=colour, bbox=patch, **where)
        right -= drawn.get_window_extent().width * 72 / axes.figure.dpi + 8
