"""Draw how ResIST works: two rounds and the exchange between them, with blocks as the sampler really deals them.

The pictures in the README:
    python tools/analysis_tools/draw_resist.py docs/images/resist
"""

from __future__ import annotations

import argparse
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from resist_mm.exchange import ExchangePlan
from resist_mm.partition import Assignment, PartitionSampler

from .style import GREY, PALE, SLATE, WIDTH, new_figure, on_colour, readme_style, save, worker_colour

__all__ = ['draw_method', 'main']

# pixels of a picture that is 800 wide
BLOCKS, WORKERS = 9, 3
SHARED = {'stem, stages 1, 2': (112, 116), 'first': (240, 38), 'stage 4': (670, 64), 'head': (746, 46)}
FIRST_BLOCK, STEP, BLOCK = 290, 42, 34
ROW, HIGH = 36, 26
WHOLE, ROUNDS, HEIGHT = 42, (126, 348), 508
MEANS = ((112, 166), (670, 122))


def draw_method(before: Assignment, after: Assignment, round_index: int) -> Figure:
    """Draw two rounds.

    Args:
        before (Assignment): Of the first round; no block is shared by workers.
        after (Assignment): Of the next one.
        round_index (int): Index of the first round.
    """
    figure = new_figure(WIDTH * HEIGHT / 800)
    figure.set_layout_engine('none')
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 800), ylim=(HEIGHT, 0))
    axes.set_axis_off()
    _whole(axes)
    _text(axes, 8, ROUNDS[0] - 20, f'Round {round_index}', weight='bold', fontsize=10)
    _text(axes, 112, ROUNDS[0] - 20, 'every worker trains its own shallow sub-ResNet for some iterations, alone')
    _exchange(axes, before, after)
    for assignment, top in zip((before, after), ROUNDS, strict=True):
        for worker in range(assignment.num_workers):
            _sub_resnet(axes, assignment.blocks(worker), worker, top + worker * ROW)
    _text(axes, 8, ROUNDS[1] - 18, f'Round {round_index + 1}', weight='bold', fontsize=10)
    bottom = ROUNDS[1] + after.num_workers * ROW + 10
    _text(
        axes,
        112,
        bottom,
        'the blocks are dealt anew, by a seed that all workers share: agreeing on it takes no message',
    )
    _text(
        axes,
        112,
        bottom + 18,
        'whenever the model is evaluated or saved, and at the end, every worker gets every block',
    )
    return figure


def _whole(axes: Axes) -> None:
    """The network that is trained, and which of its blocks are dealt out."""
    _text(axes, 8, WHOLE + HIGH / 2, 'The ResNet', weight='bold', fontsize=10)
    _line(axes, WHOLE)
    for name, (x, width) in SHARED.items():
        _box(axes, x, WHOLE, width, PALE, name)
    for block in range(BLOCKS):
        _box(axes, FIRST_BLOCK + STEP * block, WHOLE, BLOCK, 'white', str(block), edge=GREY)
    left, right = SHARED['first'][0], FIRST_BLOCK + STEP * BLOCKS - STEP + BLOCK
    axes.plot([left, right], [WHOLE - 9] * 2, color=GREY, linewidth=1)
    what = 'stage 3: its first block is shared, the others are dealt out'
    _text(axes, (left + right) / 2, WHOLE - 21, what, ha='center', color=SLATE)


def _sub_resnet(axes: Axes, blocks: tuple[int, ...], worker: int, top: float) -> None:
    colour = worker_colour(worker)
    _text(axes, 8, top + HIGH / 2, f'worker {worker}', color=colour, weight='bold')
    _line(axes, top)
    for name, (x, width) in SHARED.items():
        _box(axes, x, top, width, PALE, name)
    for block in blocks:
        _box(axes, FIRST_BLOCK + STEP * block, top, BLOCK, colour, str(block))


def _exchange(axes: Axes, before: Assignment, after: Assignment) -> None:
    """What is sent: drawn first, so that rows lie on top."""
    above, below = ROUNDS[0] + (WORKERS - 1) * ROW + HIGH, ROUNDS[1]
    middle = (above + below) / 2
    for start, width in MEANS:
        _arrow(axes, start + width / 2, above, middle - 13, SLATE)
        _arrow(axes, start + width / 2, middle + 13, below, SLATE)
        _box(axes, start + 10, middle - 12, width - 20, 'white', 'averaged', edge=SLATE)
    plan = ExchangePlan.between(before, after)
    for block in range(BLOCKS):
        (old,), (new,) = before.holders(block), after.holders(block)
        x = FIRST_BLOCK + STEP * block + BLOCK / 2
        ends = ROUNDS[0] + old * ROW + HIGH, ROUNDS[1] + new * ROW
        if old == new:
            axes.plot([x, x], ends, ':', color=worker_colour(old), linewidth=1.5)
        else:
            _arrow(axes, x, *ends, worker_colour(old))
    said = f'{plan.num_sends} of {BLOCKS} blocks\nmove, straight to\ntheir next holder;\ndotted: stays'
    _text(axes, 8, above + 24, 'Exchange', weight='bold', fontsize=10)
    _text(axes, 8, above + 37, said, color=SLATE, fontsize=8, va='top')


def _box(axes: Axes, x: float, top: float, width: float, colour: str, text: str, edge: str = 'none') -> None:
    shape = FancyBboxPatch((x, top), width, HIGH, 'round,pad=0,rounding_size=4', facecolor=colour, edgecolor=edge)
    axes.add_patch(shape)
    _text(axes, x + width / 2, top + HIGH / 2, text, ha='center', color=on_colour(colour))


def _line(axes: Axes, top: float) -> None:
    """What a dropped block is: the identity."""
    axes.plot([SHARED['stem, stages 1, 2'][0], 790], [top + HIGH / 2] * 2, color=GREY, linewidth=1, zorder=0.9)


def _arrow(axes: Axes, x: float, start: float, end: float, colour: str) -> None:
    arrow = dict(arrowstyle='-|>', color=colour, linewidth=1.5, shrinkA=0, shrinkB=0, mutation_scale=11)
    axes.annotate('', (x, end), (x, start), arrowprops=arrow)


def _text(axes: Axes, x: float, y: float, text: str, **style) -> None:
    axes.text(x, y, text, **{'fontsize': 9, 'va': 'center_baseline', **style})


def main() -> None:
    """Draw the method, as PNG and as SVG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('out', type=Path, help='the pictures, without .png and .svg')
    parser.add_argument('--seed', type=int, default=0, help='of the partition')
    args = parser.parse_args()
    sampler = PartitionSampler(BLOCKS, WORKERS, min_blocks=0, seed=args.seed)
    with readme_style():
        files = save(draw_method(sampler.sample(0), sampler.sample(1), 0), args.out)
    print(f'the method is drawn in {" and ".join(map(str, files))}')
