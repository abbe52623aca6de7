"""Check Theorem 3.1 by experiment: ResIST's loss falls geometrically, to a floor.

Full-batch gradient descent on the squared loss of residual networks whose layers are dealt out to workers anew in
every round. One of width, workers, local steps and depth is varied; the others keep their defaults.

Example:
    python tools/analysis_tools/theory_check.py --out work_dirs/theory.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from .theory import Setting, fit_decay, run_resist

VALUES = dict(width=[2, 4, 16, 64], workers=[1, 2, 4], local_steps=[1, 5, 20], depth=[4, 6, 12])


def main() -> None:
    """Run all settings, print the rate and floor of each, draw the losses."""
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
    print('setting            factor a round   floor')
    losses: dict[str, dict[int, Tensor]] = {name: {} for name in VALUES}
    for name, by_value in losses.items():
        for value in getattr(args, name):
            by_value[value] = run_resist(Setting(rounds=args.rounds, seed=args.seed, **{name: value}))
            fit = fit_decay(by_value[value])
            print(f'{name:11} = {value:<4} {fit.factor:14.4f} {fit.floor:8.2e}')
    args.out.parent.mkdir(parents=True, exist_ok=True)
    from .plots import plot_losses

    plot_losses(losses, args.out)
    print(f'the losses are drawn in {args.out}')
