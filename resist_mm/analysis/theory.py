"""The setting of Theorem 3.1: gradient descent on masked residual networks, and a fit of rate and floor."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..partition import PartitionSampler

__all__ = ['Fit', 'Setting', 'fit_decay', 'run_resist']


@dataclass(frozen=True)
class Setting:
    """One run; the network is that of Du et al. 2019, Sec. 6, in double precision.

    Attributes:
        width: Units of a layer, m.
        workers: Workers, S.
        local_steps: Steps of full-batch gradient descent in a round, l.
        depth: Layers, H. The first, which maps the input, and the last are shared
            by all workers; the others are dealt out.
        rounds: Rounds to train.
        step_size: Of gradient descent.
        residual: c of the residual branch's factor c / (H sqrt(m)).
        num_samples: Data points, on the unit sphere, with labels in [-1, 1].
        dimension: Of the data.
        seed: Of data, weights and masks.

    Raises:
        ValueError: If no layer is left to deal out.
    """

    width: int = 32
    workers: int = 2
    local_steps: int = 5
    depth: int = 6
    rounds: int = 150
    step_size: float = 0.2
    residual: float = 1.0
    num_samples: int = 30
    dimension: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.depth < 3:
            raise ValueError(f'depth must be at least 3, got {self.depth}: the first and last layer are shared')


@dataclass(frozen=True)
class Fit:
    """A loss that falls as ``(first - floor) * factor ** round + floor``.

    Attributes:
        factor: By which the loss above the floor falls in a round; below 1 it
            converges linearly.
        floor: Where it ends.
    """

    factor: float
    floor: float


def run_resist(setting: Setting) -> Tensor:
    """Train by ResIST.

    Args:
        setting (Setting): What to train, and how.

    Returns:
        Tensor: The squared loss of the whole network, its partitioned branches
        scaled by the share of the layers that a worker holds, before every round
        and after the last; shape (rounds + 1,).
    """
    generator = torch.Generator().manual_seed(setting.seed)
    inputs, targets = _data(setting, generator)
    weights = _initial_weights(setting, generator)
    # each worker gets at least one of the layers between the first and the last
    sampler = PartitionSampler(setting.depth - 2, setting.workers, min_blocks=1, seed=setting.seed)
    everywhere = torch.ones(setting.depth, dtype=torch.double)
    everywhere[1:-1] = sampler.share
    losses = [_loss(weights, everywhere, inputs, targets, setting)]
    for round_index in range(setting.rounds):
        assignment = sampler.sample(round_index)
        masks = torch.zeros(setting.workers, setting.depth, dtype=torch.double)
        masks[:, 0] = masks[:, -1] = 1
        for worker in range(setting.workers):
            masks[worker, [block + 1 for block in assignment.blocks(worker)]] = 1
        trained = [_train(weights, mask, inputs, targets, setting) for mask in masks]
        weights = [
            # the output layer, after the last, is shared
            _mean_of_holders([w[place] for w in trained], masks[:, min(place, setting.depth - 1)])
            for place in range(setting.depth + 1)
        ]
        losses.append(_loss(weights, everywhere, inputs, targets, setting))
    return torch.stack(losses).detach()


def fit_decay(losses: Tensor) -> Fit:
    """Fit a geometric decay to a floor.

    The floor is the median of the last tenth; the factor comes from the logarithm
    of what lies clearly above it, by least squares.

    Args:
        losses (Tensor): One a round, shape (R,).

    Returns:
        Fit: The factor is NaN if fewer than three losses lie above the floor.
    """
    values = losses.numpy()
    floor = float(np.median(values[-max(1, len(values) // 10) :]))
    above = values - floor
    low = np.flatnonzero(above <= max(0.02 * above[0], 0.5 * floor))
    falling = above[: low[0]] if len(low) else above[:-1]
    if len(falling) < 3:
        return Fit(float('nan'), floor)
    slope = np.polyfit(np.arange(len(falling)), np.log(falling), 1)[0]
    return Fit(float(np.exp(slope)), floor)


def _data(setting: Setting, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    inputs = torch.randn(setting.num_samples, setting.dimension, generator=generator, dtype=torch.double)
    targets = 2 * torch.rand(setting.num_samples, generator=generator, dtype=torch.double) - 1
    return F.normalize(inputs), targets


def _initial_weights(setting: Setting, generator: torch.Generator) -> list[Tensor]:
    m = setting.width
    shapes = [(m, setting.dimension), *[(m, m)] * (setting.depth - 1), (m,)]
    return [torch.randn(shape, generator=generator, dtype=torch.double) for shape in shapes]


def _loss(weights: list[Tensor], mask: Tensor, inputs: Tensor, targets: Tensor, setting: Setting) -> Tensor:
    m = setting.width
    x = torch.tanh(inputs @ weights[0].T) / m**0.5
    for layer in range(1, setting.depth):
        if mask[layer] != 0:
            branch = torch.tanh(x @ weights[layer].T)
            x = x + mask[layer] * setting.residual / (setting.depth * m**0.5) * branch
    return 0.5 * (x @ weights[-1] - targets).square().sum()


def _train(weights: list[Tensor], mask: Tensor, inputs: Tensor, targets: Tensor, setting: Setting) -> list[Tensor]:
    """A worker's round, which changes its own layers only."""
    weights = [w.detach().clone().requires_grad_() for w in weights]
    held = [w for layer, w in enumerate(weights) if layer == setting.depth or mask[layer] != 0]
    for _ in range(setting.local_steps):
        gradients = torch.autograd.grad(_loss(weights, mask, inputs, targets, setting), held)
        with torch.no_grad():
            for w, gradient in zip(held, gradients, strict=True):
                w -= setting.step_size * gradient
    return [w.detach() for w in weights]


def _mean_of_holders(copies: list[Tensor], mask: Tensor) -> Tensor:
    return torch.stack([copy for copy, held in zip(copies, mask, strict=True) if held != 0]).mean(0)
