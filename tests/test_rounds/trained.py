"""An engine around the toy model, trained a little and then spoilt: what the tests of bad numbers share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from resist_mm.rounds import Engine
from resist_mm.rounds.part import statistics_of
from tests.toy import ToyData, ToyModel

Values = dict[str, Tensor]
FRESH = 'momentum of '


def trained_engine(protocol: Any, frozen: Collection[str] = (), **options: Any) -> Engine:
    """The same on all workers, with SGD with momentum; parameters may be frozen."""
    torch.manual_seed(0)
    model = ToyModel()
    model.init_weights()
    for name, p in model.named_parameters():
        p.requires_grad_(name not in frozen)
    return Engine(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), protocol, **options)


def train(engine: Engine, seed: int) -> None:
    """Two iterations, on other data for each worker."""
    data = ToyData(4)
    optimizer = engine.states[1].optimizers[0]
    for iteration in range(2):
        generator = torch.Generator().manual_seed(100 * seed + 10 * iteration + dist.get_rank())
        images = data.images + torch.randn(data.images.shape, generator=generator)
        optimizer.zero_grad()
        engine.parts.model(images, data.labels, mode='loss')['loss'].backward()
        optimizer.step()


def values_of(engine: Engine) -> Values:
    """Weights, momentum and running statistics of all parts that this worker holds."""
    model, optimizer = engine.parts.model, engine.states[1].optimizers[0]
    values = {}
    held = {None, *(part.block for part in engine.parts.blocks if part.held)}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if block_of(name) in held and tensor.numel() and tensor.is_floating_point() and 'scale' not in name:
            values[name] = tensor.detach().clone()
    for name, p in model.named_parameters():
        momentum = optimizer.state.get(p, {}).get('momentum_buffer')
        if momentum is not None:
            values[FRESH + name] = momentum.clone()
    return values


def spoil(engine: Engine, where: str, number: float) -> None:
    """Put a bad number into the last block that this worker holds, and for 'everything' into all that it has."""
    parts = [part for part in engine.parts.all if part.held]
    optimizer = engine.states[1].optimizers[0]
    for part in parts if where == 'everything' else parts[-1:]:
        if where in ('weights', 'everything'):
            part.flat.flat[5] = number
        if where in ('momentum', 'everything'):
            optimizer.state[part.flat.params[0]]['momentum_buffer'].view(-1)[3] = number
        if where in ('statistics', 'everything'):
            statistics_of(part.norms)[1][2] = number


def block_of(name: str) -> int | None:
    """The partitioned block that a parameter or buffer of the toy model belongs to."""
    name = name.removeprefix(FRESH)
    if not name.startswith('backbone.layer3.') or name.startswith(('backbone.layer3.0.', 'backbone.layer3.scale')):
        return None
    return int(name.split('.')[2]) - 1
