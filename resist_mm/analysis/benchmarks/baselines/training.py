"""What every worker does to learn how accuracy grows: train by a method to the end, and evaluate on the way."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ....rounds.batch_norm import recalibrate, recalibrated_norms
from ....rounds.part import statistics_of
from .records import Records
from .running import loss_of
from .task import Task

__all__ = ['train_all']

BN_BATCHES = 8  # of each worker, as RoundHook's default


def train_all(config: str, folder: str, runs: Sequence[tuple[str, int]], iters: int | None, interval: int) -> None:
    """Train by several methods, one after the other; worker 0 records each as soon as it is done.

    Args:
        config (str): Of the network and the data.
        folder (str): Of the records.
        runs (Sequence[tuple[str, int]]): Names of methods, and seeds.
        iters (int, optional): Iterations of a run; None: the config's.
        interval (int): Iterations between evaluations.
    """
    task = Task(config, iters)
    for name, seed in runs:
        began = time.time()
        points = train(task, name, seed, interval)
        if dist.get_rank() == 0:
            seconds = round(time.time() - began, 1)
            found = dict(workers=dist.get_world_size(), interval=interval, points=points, seconds=seconds)
            found.update(asdict(task.pace), batch_size=task.batch_size)
            Records(Path(folder)).add('accuracy', dict(method=name, seed=seed, iters=task.iters), found)


def train(task: Task, name: str, seed: int, interval: int) -> list[tuple[int, float]]:
    """Train to the end; the accuracy in % after every ``interval`` iterations and at the end."""
    running = task.start(name, seed)
    schedulers = task.schedulers(running.setup.optimizer)
    batches = iter(task.train_loader(seed))
    recent: deque[Any] = deque(maxlen=BN_BATCHES)
    points = []
    for index in range(task.iters):
        batch, number = next(batches), index + 1
        recent.append(batch)
        evaluates = number % interval == 0 or number == task.iters
        running.iterate(index, batch, whole=evaluates)
        for scheduler in schedulers:
            scheduler.step()
        if evaluates:
            points.append((number, accuracy(running.model, list(recent), task.test_batches())))
    return points


@torch.no_grad()
def accuracy(model: nn.Module, recent: Sequence[Any], test: Sequence[Any]) -> float:
    """Accuracy in % of the mean of the workers' weights, with recalibrated norms; leaves the model as it was.

    Args:
        model (nn.Module): The model of this worker.
        recent (Sequence): The last training batches of this worker.
        test (Sequence): The test images that this worker looks at.
    """
    norms = recalibrated_norms(model)
    changed = [*model.parameters(), *model.buffers()]
    before = [tensor.clone() for tensor in changed]
    for parameter in model.parameters():
        _average(parameter)
    recalibrate(model, norms, recent, lambda batch: loss_of(model, model, batch))
    for statistic in statistics_of(norms):
        _average(statistic)
    model.eval()
    counts = torch.zeros(2)
    for batch in test:
        data = model.data_preprocessor(batch, False)  # type: ignore[operator]
        right = model(data['inputs']).argmax(1) == data['labels']
        counts += torch.tensor([float(right.sum()), float(len(right))])
    model.train()
    for tensor, value in zip(changed, before, strict=True):
        tensor.copy_(value)
    dist.all_reduce(counts)
    return round(100 * float(counts[0] / counts[1]), 4)


def _average(tensor: torch.Tensor) -> None:
    if tensor.is_floating_point():
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
