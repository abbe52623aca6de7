"""Running statistics for the whole model."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase

from resist_mm.exchange import Payload, Traffic

from .agreement import tell_all
from .bad_rounds import in_words
from .engine import Engine
from .guard import Guard
from .health import BadNumbers, all_finite, what_is_bad
from .part import named_statistics, running_norms, statistics_of
from .states import pack

__all__ = ['recalibrate', 'recalibrated_norms', 'settle_buffers', 'without_traces']


def settle_buffers(
    engine: Engine,
    averaged: bool,
    batches: Sequence[Any] = (),
    forward: Callable[[Any], object] | None = None,
) -> Traffic:
    """Give the whole model its running statistics, and all workers the same buffers.

    All workers must call it once the model is whole and in training mode.

    Args:
        engine (Engine): Of this worker.
        averaged (bool): Whether the statistics have already travelled in the exchange. If so, they are not
            changed here.
        batches (Sequence): Batches of this worker to recalibrate norms with. Defaults to ().
        forward (Callable, optional): Runs the model on a batch. Defaults to None: the model itself.

    Returns:
        Traffic: The bytes moved.

    Raises:
        ExchangeRefused: If recalibrating failed on another worker.
        BadNumbers: On all workers, if statistics are not finite. With ``bad_numbers='drop'`` the mean of a norm's
            recalibrated statistics is that over the workers whose are.
    """
    model, transport = engine.parts.model, engine.transport
    traffic = Traffic()
    if averaged:
        mine = _what_is_bad(engine)
        settled = statistics_of(running_norms(model))
    else:
        norms = recalibrated_norms(model)
        unchanged = 'The model is whole, with the statistics from before'
        with Guard(transport).all_or_none('recalibrating the norms', otherwise=unchanged):
            reached = recalibrate(model, norms, batches, forward or model)
        mine = _what_is_bad(engine)
        settled = _average_where_reached(norms, reached, bool(mine), engine, traffic)
    others = _buffers_except(model, settled)
    if others:
        message = _pack_bytes(others)
        traffic += transport.broadcast(message)
        _unpack_bytes(others, message)
    if _what_is_bad(engine):  # the same on all workers by now
        bad = {worker: complaints for worker, complaints in enumerate(tell_all(mine)) if complaints}
        raise BadNumbers(
            f'after round {engine.round - 1} the whole model would have running statistics that are not finite '
            f'({in_words(bad)}). Training stops; the last checkpoint is the one to resume from'
        )
    return traffic


def recalibrated_norms(model: nn.Module) -> list[_NormBase]:
    """The BatchNorms of a model that are currently updating running statistics."""
    return [norm for norm in running_norms(model) if isinstance(norm, _BatchNorm)]


@torch.no_grad()
def recalibrate(
    model: nn.Module, norms: Sequence[_NormBase], batches: Sequence[Any], forward: Callable[[Any], object]
) -> list[bool]:
    """Set the running statistics of norms from batches of this worker.

    Statistics collected inside a sub-ResNet are not those of the whole model. So the
    batches run through the whole model, without gradients, and every norm takes the
    plain mean of their statistics (as in ``torch.optim.swa_utils.update_bn``, which
    would also reset norms that are meant to keep theirs). A norm that no batch reaches
    keeps its statistics. The random state and all other buffers are restored, and everything is if ``forward``
    fails.

    Args:
        model (nn.Module): The whole model, in training mode, not its wrapper.
        norms (Sequence): The norms.
        batches (Sequence): Batches as the training loader yields them.
        forward (Callable): Runs the model on a batch.

    Returns:
        list[bool]: For each norm, whether a batch reached it.
    """
    if not norms or not batches:
        return [False] * len(norms)
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    momenta = [norm.momentum for norm in norms]
    set_now: set[int] = set()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a cumulative mean
        with _forked_random_state():
            for batch in batches:
                forward(batch)
        reached = [bool(norm.num_batches_tracked) for norm in norms]
        set_now |= {id(t) for norm, r in zip(norms, reached, strict=True) if r for t in statistics_of([norm])}
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for buffer, value in buffers:
            if id(buffer) not in set_now:
                buffer.copy_(value)
    return reached


def _average_where_reached(
    norms: Sequence[_NormBase], reached: Sequence[bool], some_are_bad: bool, engine: Engine, traffic: Traffic
) -> list[Tensor]:
    """Average statistics over the workers that set them; return those that at least one worker set."""
    if not norms:
        return []
    statistics = [statistics_of([norm]) for norm in norms]
    counts = list(map(float, reached))
    bad: list[int] = []
    if engine.bad_rounds.drops and some_are_bad:
        bad = [i for i, of_norm in enumerate(statistics) if reached[i] and what_is_bad(('', t) for t in of_norm)]
        counts = [0.0 if i in bad else count for i, count in enumerate(counts)]
    # a worker whose do not count sends zeros: NaN times 0 is NaN
    values = [t * c if c else torch.zeros_like(t) for of, c in zip(statistics, counts, strict=True) for t in of]
    device = statistics[0][0].device
    head = [*counts, float(len(bad))] if engine.bad_rounds.drops else counts
    message = pack([torch.tensor(head, dtype=torch.float32, device=device), *values])
    traffic += engine.transport.average([_in_place(message)])
    share = message[: len(norms)].tolist()
    if engine.bad_rounds.drops and message[len(norms)]:
        _leave_out(norms, bad, engine)
    pieces = iter(message[len(head) :].split([t.numel() for of_norm in statistics for t in of_norm]))
    settled = []
    for of_norm, seen in zip(statistics, share, strict=True):
        for tensor in of_norm:
            piece = next(pieces)
            if seen:
                tensor.copy_(piece / seen)
                settled.append(tensor)
    return settled


def _what_is_bad(engine: Engine) -> list[str]:
    """Which running statistics of this worker are not finite, in words."""
    norms = running_norms(engine.parts.model)
    return [] if all_finite(statistics_of(norms)) else what_is_bad(named_statistics(norms, engine.parts.names()))


def _leave_out(norms: Sequence[_NormBase], bad: Sequence[int], engine: Engine) -> None:
    """Note whose recalibrated statistics do not count; called by all workers."""
    names = engine.parts.names()
    of_workers = tell_all([f'recalibrated statistics of {names[norms[i]]}, which are not finite' for i in bad])
    left_out = {worker: complaints for worker, complaints in enumerate(of_workers) if complaints}
    engine.bad_rounds.add(engine.round - 1, left_out)


def _buffers_except(model: nn.Module, known: list[Tensor]) -> list[Tensor]:
    known_ids = {id(tensor) for tensor in known}
    return [buffer for buffer in model.buffers() if id(buffer) not in known_ids]


def _in_place(message: Tensor) -> Payload:
    payload = Payload(message.numel(), message.dtype, message.device)
    payload.value = payload.staged = message
    return payload


def _pack_bytes(tensors: Sequence[Tensor]) -> Tensor:
    """Copy tensors of any dtypes into one flat tensor of bytes."""
    return pack([tensor.reshape(-1).view(torch.uint8) for tensor in tensors])


@torch.no_grad()
def _unpack_bytes(tensors: Sequence[Tensor], message: Tensor) -> None:
    """Copy a flat tensor of bytes back into the tensors that it was packed from."""
    for tensor, piece in zip(tensors, message.split([t.nbytes for t in tensors]), strict=True):
        # clone: a view of another dtype needs an aligned start
        tensor.copy_(piece.clone().view(tensor.dtype).view_as(tensor))


@contextmanager
def without_traces(model: nn.Module) -> Iterator[None]:
    """Run a model without gradients; random state and buffers are as before afterwards."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with torch.no_grad(), _forked_random_state():
        try:
            yield
        finally:
            for buffer, value in buffers:
                buffer.copy_(value)


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
