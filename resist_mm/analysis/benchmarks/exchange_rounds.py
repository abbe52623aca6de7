"""What every worker of benchmark_exchange.py does in a turn: exchange by one protocol, round by round."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ...models import partitioned_stages
from ...partition import PartitionSampler
from ..named_networks import ARCHITECTURES, CODECS, DATASETS, build_classifier
from .exchange_protocols import Averager, Exchange, LocalSGD, PaperProtocol, ResIST
from .workers import device_of

__all__ = ['PROTOCOLS', 'WARM_UP', 'measure']

PROTOCOLS: dict[str, type[Exchange]] = dict(
    resist=ResIST, local_sgd=LocalSGD, paper=PaperProtocol, torch_averager=Averager
)
WARM_UP = 3  # rounds of a turn before those that count: the first use of memory and of connections is slow


def measure(args: argparse.Namespace, name: str, first: int, num_rounds: int) -> dict[str, Any]:
    """In every worker: run a turn of a protocol.

    Args:
        args (argparse.Namespace): Of the command.
        name (str): The protocol.
        first (int): The first round of the warm-up. After it the result is checked.
        num_rounds (int): How many rounds to time after the warm-up.

    Returns:
        dict: Of every timed round: ``seconds``, those of the guard (``looking``, ``voting``), ``sent`` bytes of
        this worker and the ``planned`` bytes of all (None: no plan); and ``buffers``, bytes of this worker.
    """
    device = device_of(args.device, dist.get_rank())
    torch.manual_seed(0)
    model = build_classifier(args.arch, DATASETS[ARCHITECTURES[args.arch].dataset].classes).to(device)
    num_blocks = sum(stage.num_partitioned for stage in partitioned_stages(model).values())
    sampler = PartitionSampler(num_blocks, dist.get_world_size(), args.min_blocks)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    exchange = PROTOCOLS[name](model, sampler, CODECS[args.codec], first)
    check(name, exchange, weights, exact=args.codec == 'none' or name in ('paper', 'torch_averager'))
    del weights
    for index in range(first + 1, first + WARM_UP):
        exchange.run(index)
    seconds: list[float] = []
    sent: list[float] = []
    planned: list[float | None] = []
    guard: list[tuple[float, float]] = []
    for index in range(first + WARM_UP, first + WARM_UP + num_rounds):
        synchronize(device)
        dist.barrier()
        began = time.perf_counter()
        sent.append(exchange.run(index))
        synchronize(device)
        seconds.append(time.perf_counter() - began)
        planned.append(exchange.planned_bytes(index) if args.codec == 'none' else None)
        dist.barrier()
        guard.append(exchange.guard())
    looking, voting = map(list, zip(*guard, strict=True))
    return dict(
        seconds=seconds, looking=looking, voting=voting, sent=sent, planned=planned, buffers=exchange.buffers
    )


@torch.no_grad()
def check(name: str, exchange: Exchange, weights: Mapping[str, Tensor], exact: bool) -> None:
    """Run the exchange of the first round, and compare what it leaves with what it should be.

    Every worker begins with the same weights and adds its number, from 1, to them; so
    the mean over some workers is the weights and the mean of their numbers. With a
    codec the workers only have to agree on the shared part.

    Raises:
        RuntimeError: If it does not leave the mean.
    """
    for p in exchange.model.parameters():
        p.add_(exchange.rank + 1)
    exchange.run(exchange.first)
    wrong = 0
    if exact:
        names = {id(p): n for n, p in exchange.model.named_parameters()}
        for p, workers in exchange.averaged():
            expected = weights[names[id(p)]] + fmean(worker + 1 for worker in workers)
            wrong += p.shape != expected.shape or not torch.allclose(p, expected, rtol=0, atol=1e-4)
    else:
        mine = torch.stack([p.double().abs().sum() for p in exchange.shared_params()]).cpu()
        least, most = mine.clone(), mine.clone()
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        dist.all_reduce(most, op=dist.ReduceOp.MAX)
        wrong = int((least != most).sum())
    if wrong:
        raise RuntimeError(f'{name}: {wrong} parameters are not the mean over their holders after the exchange')


def synchronize(device: torch.device) -> None:
    """Wait for the GPU, if there is one."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)
