"""What every worker of benchmark_training.py does: train on generated data, under one protocol."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from ...exchange import Traffic, all_reduce_bytes
from ...partition import Assignment, PartitionSampler
from ..named_networks import ARCHITECTURES, DATASETS, build_classifier
from .engine_rounds import EngineRounds
from .shaped_links import sent_on_link
from .workers import device_of

__all__ = ['Trainee', 'compare_iterations', 'train']

LR = 1e-3


class Trainee:
    """A model, an optimizer and a generated batch on this worker.

    Args:
        args (argparse.Namespace): Of the command.
        deal_blocks (bool): Whether blocks are dealt out; if not, the whole model is shared.
        codec (dict, optional): How messages are compressed. Defaults to None: fp32.
        overlap_iters (int): See :class:`Engine`. Defaults to 0.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        deal_blocks: bool = True,
        codec: dict | None = None,
        overlap_iters: int = 0,
    ) -> None:
        self.args = args
        self.device = device_of(args.device, dist.get_rank())
        data = DATASETS[ARCHITECTURES[args.arch].dataset]
        torch.manual_seed(0)
        self.layout = torch.channels_last if args.channels_last else torch.contiguous_format
        self.model: nn.Module = build_classifier(args.arch, data.classes)
        self.model.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.rounds = EngineRounds(self.model, codec, LR, deal_blocks, overlap_iters)
        self.optimizer = self.rounds.optimizer
        generator = torch.Generator().manual_seed(dist.get_rank())
        size = (args.batch_size, 3, data.image_size, data.image_size)
        images = torch.randn(size, generator=generator)
        self.images = images.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        self.labels = torch.randint(data.classes, (args.batch_size,), generator=generator).to(self.device)

    def iterate(self) -> None:
        """One iteration."""
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, torch.bfloat16) if self.args.bf16 else nullcontext():
            loss = F.cross_entropy(self.model(self.images), self.labels)
        loss.backward()
        self.optimizer.step()

    def timed(self, action: Callable[[], Any]) -> tuple[float, float]:
        """Wall and processor seconds of something that all workers do at the same time."""
        self.synchronize()
        dist.barrier()
        began = time.perf_counter(), time.process_time()
        action()
        self.synchronize()
        return time.perf_counter() - began[0], time.process_time() - began[1]

    def iterations(self, number: int) -> tuple[float, float]:
        """Wall and processor seconds of ``number`` iterations."""

        def run() -> None:
            for _ in range(number):
                self.iterate()

        return self.timed(run)

    def synchronize(self) -> None:
        """Wait for the GPU, if there is one."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)

    def resident(self) -> dict[str, int]:
        """Bytes of parameters, gradients and optimizer state."""
        params = list(self.model.parameters())
        states = [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return dict(
            parameters=sum(p.nbytes for p in params),
            gradients=sum(p.grad.nbytes for p in params if p.grad is not None),
            optimizer=sum(tensor.nbytes for tensor in states),
        )

    def activations(self) -> int:
        """Bytes that one more iteration keeps for the backward pass."""
        kept: dict[int, int] = {}
        ours = {p.untyped_storage().data_ptr() for p in self.model.parameters()}

        def note(tensor: Tensor) -> Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in ours:
                kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.iterate()
        return sum(kept.values())


def train(args: argparse.Namespace, protocol: str) -> dict[str, Any]:
    """Train under a protocol: 'ddp', 'local_sgd' or 'resist'.

    Returns:
        dict: For every round: seconds of the iterations that were run without communication
        (``compute_sec``), of the exchange at the end (``exchange_sec``; DDP: none) or of
        the iterations with communication (``together_sec``; DDP only), bytes that this worker
        sent, and bytes that left it over its link. ``memory`` in bytes, the most of all rounds; ``growth``
        is how much more than at its beginning the process, or its GPU, uses during an exchange, None if there
        is none or the system does not tell.
    """
    build_classifier('preact_tiny', 10)  # what is imported only now is no memory of training
    before = _used_bytes(torch.device('cpu'))
    trainee = Trainee(args, deal_blocks=protocol == 'resist')
    result = _train_ddp(args, trainee) if protocol == 'ddp' else _train_rounds(args, trainee)
    if trainee.device.type == 'cpu':
        result['memory']['peak'] -= before
    return result


def _train_rounds(args: argparse.Namespace, trainee: Trainee) -> dict[str, Any]:
    rounds = trainee.rounds
    num_blocks = rounds.num_blocks
    sampler = PartitionSampler(num_blocks, rounds.num_workers, args.min_blocks) if num_blocks else None

    def assign(index: int) -> Assignment:
        return sampler.sample(index) if sampler else Assignment.full(rounds.num_workers, num_blocks=0)

    rounds.begin(assign(0))
    trainee.iterate()
    activations = trainee.activations()
    found: dict[str, list[float]] = {key: [] for key in ('compute_sec', 'exchange_sec', 'sent', 'link_bytes')}
    memories = [trainee.resident()]
    buffers = peak = 0
    growth: int | None = 0
    for index in range(args.rounds):
        found['compute_sec'].append(trainee.iterations(args.timed_iters)[0])
        sent = sent_on_link() if args.link else 0
        traffic: list[Traffic] = []

        def exchange(index: int = index, traffic: list[Traffic] = traffic) -> None:
            traffic.append(rounds.exchange(assign(index + 1)))

        peak = max(peak, _peak_bytes(trainee.device))
        if not _forget_peak(trainee.device):
            growth = None
        held = _used_bytes(trainee.device)
        found['exchange_sec'].append(trainee.timed(exchange)[0])
        if growth is not None:
            growth = max(growth, _peak_bytes(trainee.device) - held)
        found['sent'].append(traffic[0].sent)
        found['link_bytes'].append(sent_on_link() - sent if args.link else 0)
        buffers = max(buffers, traffic[0].buffers)
        trainee.iterate()
        memories.append(trainee.resident())
    memory = {key: max(memory[key] for memory in memories) for key in memories[0]}
    peak = max(peak, _peak_bytes(trainee.device))
    return dict(found, memory=dict(memory, activations=activations, buffers=buffers, growth=growth, peak=peak))


def _train_ddp(args: argparse.Namespace, trainee: Trainee) -> dict[str, Any]:
    # gradients live in DDP's buckets: no memory beside them
    trainee.model = model = DistributedDataParallel(
        trainee.model, broadcast_buffers=False, gradient_as_bucket_view=True
    )
    trainee.iterate()
    resident = trainee.resident()
    memory = dict(resident, activations=trainee.activations(), buffers=0, growth=None)
    trainee.iterate()  # DDP rebuilds its buckets after the first iteration
    per_iteration = all_reduce_bytes(resident['parameters'], dist.get_world_size()).sent
    found: dict[str, list[float]] = {
        key: [] for key in ('compute_sec', 'exchange_sec', 'together_sec', 'sent', 'link_bytes')
    }
    for _ in range(args.rounds):
        sent = sent_on_link() if args.link else 0
        found['together_sec'].append(trainee.iterations(args.timed_iters)[0])
        found['exchange_sec'].append(0.0)
        found['sent'].append(args.timed_iters * per_iteration)
        found['link_bytes'].append(sent_on_link() - sent if args.link else 0)
    memory['peak'] = _peak_bytes(trainee.device)
    # afterwards: it makes gradients outside of the buckets
    with model.no_sync():
        found['compute_sec'] = [trainee.iterations(args.timed_iters)[0] for _ in range(args.rounds)]
    return dict(found, memory=memory)


def compare_iterations(args: argparse.Namespace) -> dict[str, float]:
    """Time local iterations of the whole model and of a sub-ResNet, in turns, and count their FLOPs.

    Returns:
        dict: Medians of wall and of processor seconds, and FLOPs, of ``whole`` and ``sub``.
    """
    trainees = dict(whole=Trainee(args, deal_blocks=False), sub=Trainee(args))
    rounds = trainees['sub'].rounds
    rounds.begin(PartitionSampler(rounds.num_blocks, rounds.num_workers, args.min_blocks).sample(0))
    flops = {}
    for name, trainee in trainees.items():
        with FlopCounterMode(display=False) as counter:
            trainee.iterate()
        flops[name] = float(counter.get_total_flops())
    wall: dict[str, list[float]] = dict(whole=[], sub=[])
    processor: dict[str, list[float]] = dict(whole=[], sub=[])
    for _ in range(args.compared_iters):
        for name, trainee in trainees.items():
            seconds = trainee.iterations(1)
            wall[name].append(seconds[0])
            processor[name].append(seconds[1])
    found = {f'{name}_flops': flops[name] for name in trainees}
    for name in trainees:
        found[f'{name}_sec'] = median(wall[name])
        found[f'{name}_cpu_sec'] = median(processor[name])
    return found


def _used_bytes(device: torch.device) -> int:
    """What this process, or its GPU, uses now."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated(device)
    return _status_bytes('VmRSS')


def _peak_bytes(device: torch.device) -> int:
    """The most that this process, or its GPU, has used since :func:`_forget_peak`."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    return _status_bytes('VmHWM')


def _forget_peak(device: torch.device) -> bool:
    """Measure peaks from here on; False where the system does not let this process do so."""
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        Path('/proc/self/clear_refs').write_text('5')  # proc(5): resets VmHWM
    except OSError:
        return False
    return True


def _status_bytes(key: str) -> int:
    """A line of /proc/self/status, of Linux."""
    for line in Path('/proc/self/status').read_text().splitlines():
        name, _, value = line.partition(':')
        if name == key:
            return 1024 * int(value.split()[0])
    raise RuntimeError(f'/proc/self/status has no line {key}')
