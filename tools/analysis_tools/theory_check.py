"""Check Theorem 3.1 by experiment: ResIST's loss falls geometrically, to a floor.

Full-batch gradient descent on the squared loss of residual networks whose layers are dealt out to workers anew in
every round. One of width, workers, local steps and depth is varied, the others keep their defaults.

Example:
    python tools/analysis_tools/theory_check.py --out work_dirs/theory.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import _clone  # noqa: F401
import matplotlib
import torch
from _theory import Setting, fit_decay, run_resist

matplotlib.use('Agg')
from matplotlib import pyplot as plt

VALUES = dict(width=[2, 4, 16, 64], workers=[1, 2, 4], local_steps=[1, 5, 20], depth=[4, 6, 12])


def main() -> None:
    """Run all settings, print rate and floor of each, draw the losses."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, values in VALUES.items():
        parser.add_argument(
            f'--{name.replace("_", "-")}', type=int, nargs='*', default=values, help=f'default: {values}'
        )
    parser.add_argument('--rounds', type=int, default=Setting.rounds, help=f'default: {Setting.rounds}')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--out', type=Path, default=Path('work_dirs/theory.png'), help='the picture')
    args = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are small: threads would only wait for each other
    figure, axes = plt.subplots(1, len(VALUES), figsize=(4 * len(VALUES), 3.5), sharey=True)
    print('setting            factor a round   floor')
    for axis, name in zip(axes, VALUES, strict=True):
        for value in getattr(args, name):
            losses = run_resist(Setting(rounds=args.rounds, seed=args.seed, **{name: value}))
            fit = fit_decay(losses)
            print(f'{name:11} = {value:<4} {fit.factor:14.4f} {fit.floor:8.2e}')
            axis.semilogy(losses, label=str(value))
        axis.set(title=name.replace('_', ' '), xlabel='round')
        axis.legend()
    axes[0].set_ylabel('loss of the whole network')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out, bbox_inches='tight')
    print(f'the losses are drawn in {args.out}')


if __name__ == '__main__':
    main()
