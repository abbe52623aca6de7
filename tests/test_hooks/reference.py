"""ResIST in one process, written independently of the package: the reference for tests."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from resist_mm.partition import Assignment

Weights = dict[str, Tensor]
Batch = tuple[Tensor, Tensor]
SHARED_BLOCKS = (0,)  # the first block of layer3


def toy_logits(w: Weights, images: Tensor, blocks: Sequence[int], scale: float) -> Tensor:
    """The toy model with some of its partitioned blocks, by functions alone."""

    def preact(x: Tensor, name: str) -> Tensor:
        return F.relu(F.batch_norm(x, None, None, w[f'{name}.weight'], w[f'{name}.bias'], training=True))

    def block(x: Tensor, name: str, stride: int, factor: float) -> Tensor:
        out = preact(x, f'{name}.norm1')
        shortcut = x
        if f'{name}.downsample.weight' in w:
            shortcut = F.conv2d(out, w[f'{name}.downsample.weight'], stride=stride)
        out = F.conv2d(out, w[f'{name}.conv1.weight'], stride=stride, padding=1)
        out = preact(out, f'{name}.norm2')
        return shortcut + factor * F.conv2d(out, w[f'{name}.conv2.weight'], padding=1)

    x = F.conv2d(images, w['backbone.stem.0.weight'], padding=1)
    x = block(x, 'backbone.layer1.0', 1, 1.0)
    x = block(x, 'backbone.layer2.0', 2, 1.0)
    x = block(x, 'backbone.layer3.0', 2, 1.0)
    for number in blocks:
        x = block(x, f'backbone.layer3.{number + 1}', 1, scale)
    x = preact(x, 'backbone.final_norm3')
    return F.linear(x.mean((2, 3)), w['head.weight'], w['head.bias'])


def simulate(
    weights: Weights,
    batches: Sequence[Sequence[Batch]],
    assignments: Sequence[Assignment],
    local_iters: int,
    lr: float,
    momentum: float,
    keep_momentum: bool = False,
) -> Weights:
    """Train by rounds; every worker is a dictionary.

    Args:
        weights: The parameters at the start.
        batches: The batches of every worker, in order.
        assignments: Who holds which blocks, for each round.
        local_iters: Iterations of a round.
        lr: Learning rate.
        momentum: Of SGD.
        keep_momentum: Whether it is averaged and handed over, or starts afresh.

    Returns:
        The parameters of the whole model after the last round.
    """
    return simulate_with_average(weights, batches, assignments, local_iters, lr, momentum, keep_momentum)[0]


def simulate_with_average(
    weights: Weights,
    batches: Sequence[Sequence[Batch]],
    assignments: Sequence[Assignment],
    local_iters: int,
    lr: float,
    momentum: float,
    keep_momentum: bool = False,
    rate: Callable[[int], float] = lambda it: 1.0,
    bad: Mapping[int, Collection[int]] | None = None,
    counts: Sequence[Sequence[int]] | None = None,
    own: Sequence[Weights] | None = None,
    is_own: Callable[[str], bool] = lambda name: _block_of(name) is None,
    velocity: Weights | None = None,
) -> tuple[Weights, Weights]:
    """As :func:`simulate`, with a moving average of the weights.

    Args:
        rate: How much the weights after an iteration, counted from 0, count in their average.
        bad: By round, the workers whose training in it does not count.
        counts: By round, the iterations of each worker, instead of ``local_iters``; in means each of them counts.
        own: By worker, the momentum that it keeps for itself, updated in place; ``is_own`` says of what.
        velocity: The momentum to begin with, updated in place; zero where there is none.

    Returns:
        The parameters of the whole model after the last round, and their average.
    """
    num_workers, taken = len(batches), [0] * len(batches)
    velocity = {} if velocity is None else velocity
    velocity.update({name: torch.zeros_like(value) for name, value in weights.items() if name not in velocity})
    averages = {name: value.clone() for name, value in weights.items()}
    for round_index, assignment in enumerate(assignments):
        left_out = (bad or {}).get(round_index, ())
        trained = []
        for worker in range(num_workers):
            blocks = assignment.blocks(worker)
            mine = [name for name in weights if _block_of(name) is None or _block_of(name) in blocks]
            w, v, a = ({name: of[name].clone() for name in mine} for of in (weights, velocity, averages))
            if own is not None:
                zeros = {name: torch.zeros_like(value) for name, value in v.items() if is_own(name)}
                v.update(zeros | own[worker])
            count = local_iters if counts is None else counts[round_index][worker]
            for it in range(taken[worker], taken[worker] + count):
                _iterate((w, v, a), batches[worker][it], blocks, lr, momentum, rate(it))
            taken[worker] += count
            trained.append((w, v, a))
            if own is not None:
                own[worker].clear()
                own[worker].update({} if worker in left_out else {n: t for n, t in v.items() if is_own(n)})
        for name in weights:
            holders = range(num_workers) if _block_of(name) is None else assignment.holders(_block_of(name))
            holders = [worker for worker in holders if worker not in left_out]
            if holders:  # if not, it stays as it is
                count_of = None if counts is None else [counts[round_index][h] for h in holders]
                weights[name], velocity[name], averages[name] = (
                    _mean([trained[h][i][name] for h in holders], count_of) for i in range(3)
                )
            if not (holders and keep_momentum):
                velocity[name] = torch.zeros_like(weights[name])
    return weights, averages


def _mean(values: Sequence[Tensor], counts: Sequence[int] | None) -> Tensor:
    if counts is None:
        return torch.stack(list(values)).mean(0)
    return sum(count * value for count, value in zip(counts, values, strict=True)) / sum(counts)


def _iterate(
    state: tuple[Weights, Weights, Weights],
    batch: Batch,
    blocks: Collection[int],
    lr: float,
    momentum: float,
    rate: float,
) -> None:
    """One iteration of a worker: changes its weights, momentum and moving average in place."""
    w, v, a = state
    images, labels = batch
    leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
    loss = F.cross_entropy(toy_logits(leaves, images, blocks, 1.0), labels)
    grads = torch.autograd.grad(loss, list(leaves.values()))
    for name, grad in zip(leaves, grads, strict=True):
        v[name] = momentum * v[name] + grad
        w[name] = w[name] - lr * v[name]
        a[name] = (1 - rate) * a[name] + rate * w[name]


def _block_of(name: str) -> int | None:
    if not name.startswith('backbone.layer3.'):
        return None
    place = int(name.split('.')[2])
    return None if place in SHARED_BLOCKS else place - 1
