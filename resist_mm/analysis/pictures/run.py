"""Draw a run from its logs: losses, a metric, seconds, bytes, and who held which block in each round.

Works for runs in rounds and for data-parallel ones, also while they are training.

Example:
    python tools/analysis_tools/plot_run.py work_dirs/yolo_resist_voc
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..runs import HeldRound, RunSummary, read_run
from .block_map import block_map
from .panels import (
    bytes_of_rounds,
    loss_curves,
    losses,
    metrics_of,
    seconds_of_iterations,
    seconds_of_rounds,
    validated,
)
from .style import SLATE, new_figure, readme_style, save

__all__ = ['draw_run', 'main']

MOST_ROUNDS = 60  # of the map
HEAD, PANEL, MAP_EDGES = 0.75, 1.9, 0.75  # inches

Panel = Callable[[Axes], Callable[[], None]]


def draw_run(run: RunSummary, metrics: Sequence[str] = (), rounds: tuple[int, int] | None = None) -> Figure:
    """Draw a run.

    Args:
        run (RunSummary): What its logs say.
        metrics (Sequence[str]): The metrics to draw. Defaults to (): the first that was logged.
        rounds (tuple[int, int], optional): First and last round of the map. Defaults to None: the last 60.

    Raises:
        ValueError: If nothing was trained, or what is asked for was not logged.
    """
    if not run.iterations:
        raise ValueError('no training was logged, or it was ended before the first line of its log')
    panels = _panels(run, _chosen(run, metrics))
    held = _shown(run, rounds)
    rows = (len(panels) + 1) // 2
    map_height = MAP_EDGES + _row_height(held) * _num_blocks(held) if held else 0.0
    heights = [HEAD, *[PANEL] * rows, *([map_height] if held else [])]
    figure = new_figure(sum(heights))
    layout: Any = figure.get_layout_engine()
    layout.set(rect=(0.005, 0.01, 0.985, 1 - HEAD / sum(heights) - 0.01), h_pad=0.08)
    grid = figure.add_gridspec(len(heights) - 1, 2, height_ratios=heights[1:])
    labels = []
    for place, panel in enumerate(panels):
        alone = place == len(panels) - 1 and place % 2 == 0
        labels.append(panel(figure.add_subplot(grid[place // 2, :] if alone else grid[place // 2, place % 2])))
    axes = figure.add_subplot(grid[rows, :]) if held else None
    _write_head(figure, run)
    figure.canvas.draw()  # labels and numbers need to know how large everything is
    for write in labels:
        write()
    if axes is not None:
        block_map(axes, held, len(run.rounds))
    return figure


def _panels(run: RunSummary, metrics: Sequence[str]) -> list[Panel]:
    panels: list[Panel] = [partial(losses, run=run)] if loss_curves(run) else []
    if metrics:
        panels.append(partial(validated, run=run, names=metrics))
    if run.rounds:
        return [*panels, partial(seconds_of_rounds, run=run), partial(bytes_of_rounds, run=run)]
    return [*panels, partial(seconds_of_iterations, run=run)]


def _chosen(run: RunSummary, metrics: Sequence[str]) -> Sequence[str]:
    there = metrics_of(run)
    for name in metrics:
        if name not in there:
            raise ValueError(f'--metric {name}: validations logged {", ".join(there) or "no metric"}')
    return metrics or there[:1]


def _shown(run: RunSummary, rounds: tuple[int, int] | None) -> dict[int, HeldRound]:
    """The rounds of the map; none if nothing was dealt out."""
    if not any(of_round.blocks_of_workers is not None for of_round in run.held.values()):
        return {}
    first, last = rounds or (max(run.held) - _most_rounds(run) + 1, max(run.held))
    held = {index: of_round for index, of_round in run.held.items() if first <= index <= last}
    if not held:
        raise ValueError(f'--rounds {first} {last}: the run has the rounds {min(run.held)} to {max(run.held)}')
    return held


def _most_rounds(run: RunSummary) -> int:
    """As many rounds as can be told apart; fewer if many workers share a block."""
    dealt = [of_round for of_round in run.held.values() if of_round.blocks_of_workers is not None]
    holders = max(sum(map(len, of_round.blocks_of_workers or ())) / of_round.num_blocks for of_round in dealt)
    return max(10, MOST_ROUNDS * 2 // max(2, ceil(holders)))


def _num_blocks(held: dict[int, HeldRound]) -> int:
    return max(of_round.num_blocks for of_round in held.values())


def _row_height(held: dict[int, HeldRound]) -> float:
    """Inches of a block: room for a digit, unless there are very many."""
    return min(0.17, max(0.07, 3.5 / _num_blocks(held)))


def _write_head(figure: Figure, run: RunSummary) -> None:
    inches = figure.get_figheight()
    for text, down, size, weight, colour in (
        (run.config or 'a run', 0.22, 12, 'bold', None),
        (_what_it_is(run), 0.43, 9, 'normal', SLATE),
        (_totals(run), 0.60, 9, 'normal', SLATE),
    ):
        figure.text(0.012, 1 - down / inches, text, fontsize=size, weight=weight, color=colour, va='baseline')


def _what_it_is(run: RunSummary) -> str:
    if run.workers:
        return f'ResIST: {run.workers}'
    workers = f'{run.num_workers} worker{"s" * (run.num_workers > 1)}'
    return f'{workers}, rounds on the whole model' if run.rounds else f'{workers}, no rounds'


def _totals(run: RunSummary) -> str:
    iterations = f'{max(run.iterations):,} iterations'
    tested = [f'test: {name} {value:.4g}' for name, value in run.metrics.items() if name in metrics_of(run)[:1]]
    if not run.rounds:
        return '; '.join([f'{iterations}, {run.train_sec:,.0f} s of training', *tested])
    return '; '.join(
        [
            f'{len(run.rounds):,} rounds, {run.total("iters"):,.0f} iterations',
            f'{run.total("compute_sec"):,.0f} s of compute, {run.total("exchange_sec"):,.1f} s of exchange',
            f'{run.total("total_mb"):,.0f} MB sent',
            *tested,
        ]
    )


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path)
    parser.add_argument(
        '--metric', nargs='+', default=(), metavar='NAME', help='default: the first that was logged'
    )
    parser.add_argument(
        '--rounds',
        type=int,
        nargs=2,
        metavar=('FIRST', 'LAST'),
        help=f'rounds of the map (default: the last {MOST_ROUNDS}, or fewer)',
    )
    parser.add_argument(
        '--out', type=Path, help='the pictures, without .png and .svg (default: "run" in the work dir)'
    )
    return parser.parse_args()


def main() -> None:
    """Draw a run, as PNG and as SVG."""
    args = parse_args()
    try:
        run = read_run(args.work_dir)
        with readme_style():
            figure = draw_run(run, args.metric, None if args.rounds is None else tuple(args.rounds))
            files = save(figure, args.out or args.work_dir / 'run')
    except FileNotFoundError as error:
        sys.exit(f'plot_run.py: {error}')
    except ValueError as error:
        sys.exit(f'plot_run.py: {args.work_dir}: {error}')
    print(f'the run is drawn in {" and ".join(map(str, files))}')
    if run.workers and not run.held:
        print('without the map of blocks: the logs are from before rounds.jsonl, which says who held what')
