"""Running statistics for the whole model."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from resist_mm.exchange import Parcel, Traffic
from resist_mm.models.wrappers import not_distributed

from .packing import pack, pack_bytes, unpack, unpack_bytes
from .worker_rounds import WorkerRounds
from .worker_state import running_norms, statistics_of

__all__ = ['settle_buffers']


def settle_buffers(runner: Runner, rounds: WorkerRounds, batches: Iterable[Any]) -> Traffic:
    """Give the whole model its running statistics, and all workers the same buffers.

    Args:
        runner (Runner): Gives the precision of forward passes.
        rounds (WorkerRounds): The worker, its model whole and in training mode.
        batches (Iterable): Batches of this worker to recalibrate norms with, as
            they come from the training loader; none leaves the statistics alone.

    Returns:
        Traffic: The bytes moved.
    """
    model, transport = rounds.worker.model, rounds.transport
    traffic = Traffic()
    statistics = recalibrate(runner, model, batches)
    if statistics:
        message = pack(statistics)
        traffic += transport.average([Parcel(message)])
        unpack(statistics, message)
    others = _buffers_except(model, statistics)
    if others:
        message = pack_bytes(others)
        traffic += transport.broadcast(message)
        unpack_bytes(others, message)
    return traffic


@torch.no_grad()
def recalibrate(runner: Runner, model: nn.Module, batches: Iterable[Any]) -> list[Tensor]:
    """Set the running statistics of norms from batches of this worker.

    Statistics seen inside a sub-ResNet are not those of the whole model, so the
    batches run through it, without gradients, and every norm that is in training
    mode takes the plain mean of what it sees (as ``torch.optim.swa_utils.update_bn``,
    which would also reset the norms that are meant to keep theirs). Random state
    and all other buffers are as before afterwards.

    Args:
        runner (Runner): Gives the precision of the forward passes.
        model (nn.Module): The whole model, in training mode, not its wrapper.
        batches (Iterable): As they come from the training loader.

    Returns:
        list[Tensor]: The statistics that were set, still those of this worker.
    """
    norms = running_norms(model)
    batches = list(batches)
    if not norms or not batches:
        return []
    statistics = statistics_of(norms)
    other_buffers = [(b, b.clone()) for b in _buffers_except(model, statistics)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    with not_distributed(), _forked_random_state(), _precision(runner):
        for batch in batches:
            data = model.data_preprocessor(batch, True)  # type: ignore[operator]
            model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    for buffer, value in other_buffers:
        buffer.copy_(value)
    return statistics


def _buffers_except(model: nn.Module, known: list[Tensor]) -> list[Tensor]:
    known_ids = {id(tensor) for tensor in known}
    return [buffer for buffer in model.buffers() if id(buffer) not in known_ids]


def _precision(runner: Runner) -> Any:
    if isinstance(runner.optim_wrapper, OptimWrapperDict):
        return nullcontext()
    return runner.optim_wrapper.optim_context(runner.model)


@contextmanager
def _forked_random_state() -> Iterator[None]:
    python_state, numpy_state = random.getstate(), np.random.get_state()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
