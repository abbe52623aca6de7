"""What every worker of benchmark_unequal.py does: rounds of ResIST, with a share of a processor."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ...models.backbones import PreActResNet
from ...rounds import Engine, ResIST
from .cpu_quotas import Quota

__all__ = ['SETTINGS', 'Setting', 'train']

CLASSES = 10
LR = 1e-3


class Setting(NamedTuple):
    """What goes by speed."""

    blocks: bool
    iterations: bool


SETTINGS = {
    'equal hands': Setting(False, False),
    'blocks by speed': Setting(True, False),
    'iterations by speed': Setting(False, True),
    'both by speed': Setting(True, True),
}


class Head(nn.Module):
    """The mean over the image, and a linear layer."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, CLASSES)

    def forward(self, outs: Sequence[torch.Tensor]) -> torch.Tensor:
        """The logits."""
        return self.linear(outs[-1].mean((2, 3)))


def build(blocks: int, channels: int) -> nn.Module:
    """A pre-activation ResNet for 32x32 images; two stages are partitioned, with ``blocks`` blocks each."""
    backbone = PreActResNet(
        block='basic',
        stage_blocks=(1, blocks + 1, blocks + 1),
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(2,),
        stem='cifar',
        base_channels=channels,
        partition_stages=('layer2', 'layer3'),
    )
    return nn.Sequential(backbone, Head(backbone.feat_dim))


def train(args: argparse.Namespace, name: str, quotas: Sequence[Quota]) -> dict[str, Any]:
    """Train under a setting.

    Returns:
        dict: Of the timed rounds: ``seconds`` of each, those ``waited``, and the ``iterations`` trained; at the
        end ``hands``, and ``shared``, the cost of the shared part in blocks.
    """
    torch.manual_seed(0)
    model = build(args.blocks, args.channels)
    setting, quota = SETTINGS[name], quotas[dist.get_rank()]
    protocol = ResIST(min_blocks=args.min_blocks, blocks='by_speed' if setting.blocks else None)
    protocol.iters_by_speed, protocol.speed_interval = setting.iterations, 1
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    engine = Engine(model, optimizer, protocol)
    generator = torch.Generator().manual_seed(dist.get_rank())
    images = torch.randn(args.batch_size, 3, 32, 32, generator=generator)
    labels = torch.randint(CLASSES, (args.batch_size,), generator=generator)
    done = 0

    def iterate() -> None:
        nonlocal done
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        quota.after_iteration()
        done += 1

    quota.enter()
    found: dict[str, list] = dict(seconds=[], waited=[], iterations=[])
    settle = args.settle if any(setting) else 1
    for index in range(settle + args.rounds):
        before, waited, began = done, engine.transport.waited_sec, time.perf_counter()
        engine.run_round(iterate, args.local_iters)
        if index >= settle:
            found['seconds'].append(time.perf_counter() - began)
            found['waited'].append(engine.transport.waited_sec - waited)
            found['iterations'].append(done - before)
    assert engine.assignment is not None
    hands = [len(engine.assignment.blocks(worker)) for worker in range(engine.num_workers)]
    speeds = None if protocol.speeds is None else protocol.speeds.current
    return dict(found, hands=hands, shared=None if speeds is None else speeds.shared)
