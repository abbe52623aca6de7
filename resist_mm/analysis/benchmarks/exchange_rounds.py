"""What every worker of benchmark_exchange.py does: exchange by every protocol, round by round."""

from __future__ import annotations

import argparse
import time
from statistics import fmean
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from ...models import partitioned_stages
from ...partition import PartitionSampler
from ..named_networks import ARCHITECTURES, CODECS, DATASETS, build_classifier
from .exchange_protocols import Averager, Exchange, LocalSGD, PaperProtocol, ResIST
from .workers import device_of

__all__ = ['PROTOCOLS', 'measure']

PROTOCOLS: dict[str, type[Exchange]] = dict(
    resist=ResIST, local_sgd=LocalSGD, paper=PaperProtocol, torch_averager=Averager
)


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """In every worker: run the rounds.

    Returns:
        dict: By protocol, of every round: ``seconds``, ``sent`` bytes of this worker and the
        ``planned`` bytes of all (None: no plan); ``buffers``, bytes of this worker.
    """
    device = device_of(args.device, dist.get_rank())
    num_classes = DATASETS[ARCHITECTURES[args.arch].dataset].classes
    exchanges: dict[str, Exchange] = {}
    for name, protocol in PROTOCOLS.items():
        torch.manual_seed(0)
        model = build_classifier(args.arch, num_classes).to(device)
        num_blocks = sum(stage.num_partitioned for stage in partitioned_stages(model).values())
        sampler = PartitionSampler(num_blocks, dist.get_world_size(), args.min_blocks)
        exchanges[name] = protocol(model, sampler, CODECS[args.codec])
    torch.manual_seed(0)
    reference = build_classifier(args.arch, num_classes).to(device)
    for name, exchange in exchanges.items():
        check(name, exchange, reference, exact=args.codec == 'none' or name in ('paper', 'torch_averager'))
    del reference
    seconds: dict[str, list[float]] = {name: [] for name in exchanges}
    sent: dict[str, list[float]] = {name: [] for name in exchanges}
    planned: dict[str, list[float | None]] = {name: [] for name in exchanges}
    for index in range(1, args.rounds + 1):
        for name, exchange in exchanges.items():
            synchronize(device)
            dist.barrier()
            began = time.perf_counter()
            sent[name].append(exchange.run(index))
            synchronize(device)
            seconds[name].append(time.perf_counter() - began)
            planned[name].append(exchange.planned_bytes(index) if args.codec == 'none' else None)
    buffers = {name: getattr(exchange, 'buffers', None) for name, exchange in exchanges.items()}
    return dict(seconds=seconds, sent=sent, planned=planned, buffers=buffers)


@torch.no_grad()
def check(name: str, exchange: Exchange, reference: nn.Module, exact: bool) -> None:
    """Run the exchange of round 0, and compare what it leaves with what it should be.

    Every worker begins with the same weights and adds its number, from 1, to them; so
    the mean over some workers is the weights and the mean of their numbers. With a
    codec the workers only have to agree on the shared part.

    Raises:
        RuntimeError: If it does not leave the mean.
    """
    for p in exchange.model.parameters():
        p.add_(exchange.rank + 1)
    exchange.run(0)
    wrong = 0
    if exact:
        names = {id(p): n for n, p in exchange.model.named_parameters()}
        for p, workers in exchange.averaged(index=1):
            expected = reference.get_parameter(names[id(p)]) + fmean(worker + 1 for worker in workers)
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
