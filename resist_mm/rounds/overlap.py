"""Averages the shared part while the last iterations of a round are trained."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from resist_mm.exchange import Codec, Payload, Traffic
from resist_mm.exchange.background import BackgroundAverage
from resist_mm.exchange.memory import empty_flat
from resist_mm.partition import Assignment

from .arguments import check_count
from .part import Part, Parts
from .states import Weights

__all__ = ['Overlap', 'check_overlap']


def check_overlap(
    overlap_iters: Any,
    bad_numbers: str,
    on_worker_loss: str,
    codec: Codec | None,
    prefix: str = '',
    local_iters: int | None = None,
) -> None:
    """Refuse a wrong ``overlap_iters``, and what it cannot be combined with.

    Args:
        overlap_iters: What was given.
        bad_numbers (str): What happens to a round with bad numbers.
        on_worker_loss (str): What happens if a worker is lost.
        codec (Codec, optional): How weights are compressed.
        prefix (str): What precedes the names of arguments in messages, such as ``'ResISTHook.'``.
        local_iters (int, optional): Iterations of a round, if known.

    Raises:
        ValueError: Naming the arguments.
    """
    check_count(f'{prefix}overlap_iters', overlap_iters, least=0)
    if not overlap_iters:
        return
    if local_iters is not None and overlap_iters >= local_iters:
        raise ValueError(f'{prefix}overlap_iters must be below local_iters={local_iters}, got {overlap_iters!r}')
    random = 'codec.stochastic' if hasattr(codec, 'stochastic') else f'{type(codec).__name__}.is_random'
    for name, value, allowed in (
        ('bad_numbers', bad_numbers, 'stop'),
        ('on_worker_loss', on_worker_loss, 'stop'),
        (random, codec is not None and codec.is_random, False),
    ):
        if value != allowed:
            raise ValueError(
                f'{prefix}overlap_iters={overlap_iters} cannot be combined with {name}={value!r}: set {name} to '
                f'{allowed!r}, or overlap_iters to 0'
            )


class Overlap:
    """The mean of the shared part, on its way while workers train the last iterations of a round.

    Each worker i takes a snapshot s_i of its weights ``overlap_iters`` iterations before the end of a round, and
    the mean m of the snapshots is computed in the background. In the exchange that ends the round it is waited
    for, the protocol may change it (outer step), and what the worker has changed since is added: its weights w_i
    become m + (w_i - s_i). This is the correction of CoCoD-SGD (Shen et al., arXiv:1906.12043) and of Streaming
    DiLoCo (Douillard et al., arXiv:2501.18512), applied where blocks change hands, not some iterations later.

    Guarantees:

    - The result does not depend on when messages arrive: snapshot and correction have fixed iterations.
    - In the next round the shared parts of workers differ by ``overlap_iters`` iterations of training, which the
      next mean takes in. What compression and an outer step refer to is m, the same on all workers bit for bit.
    - A round that ends with the whole model is exact, as if nothing had been on its way: that is discarded. It has
      one outer step, as each round has. So nothing is on its way in a checkpoint.
    - The result is staged, looked at and accepted with everything else in the exchange, or rolled back with it;
      what is repeated then is exact.
    - Only weights of the shared part travel ahead. Whatever else an exchange averages is waited for: blocks,
      also in a warm-up, momentum that is not restarted, running statistics and moving averages.

    Takes the memory of the shared part twice, from the snapshot to the exchange.

    Args:
        parts (Parts): Of this worker.
        weights (Weights): The state that travels ahead.
        keeps_reference (bool): Whether m is needed in the next round.

    Attributes:
        used: Whether an exchange has begun to use it; what is rolled back then is not used again.
    """

    def __init__(self, parts: Parts, weights: Weights, keeps_reference: bool) -> None:
        self.parts, self.weights, self.keeps_reference = parts, weights, keeps_reference
        self._background = BackgroundAverage(parts.device)
        self._traffic = Traffic()
        self._payloads: dict[Part, list[Payload]] = {}
        self._snapshots: dict[Part, Tensor] = {}
        self._means: dict[Part, Tensor] = {}
        self.used = False

    @property
    def under_way(self) -> bool:
        """Whether there is a mean, or will be."""
        return bool(self._payloads)

    @property
    def nbytes(self) -> int:
        """Size of the snapshots, in bytes."""
        return sum(snapshot.nbytes for snapshot in self._snapshots.values())

    @torch.no_grad()
    def start(self, old: Assignment) -> None:
        """Take the snapshot and begin to average; to be called by all workers.

        Args:
            old (Assignment): Who holds what, with the weights of workers in means.

        Raises:
            RuntimeError: If this has been done in this round.
        """
        if self.under_way:
            raise RuntimeError('the shared part is being averaged already: it is once a round')
        try:
            for part in self.parts.shared:
                payloads = self.weights.payloads(part, self.parts.device, exact=False, all_have_reference=True)
                if part.flat is None:
                    continue
                self._snapshots[part] = _copy_of(part.flat.flat)
                self.weights.load(part, payloads, [self._snapshots[part]])
                self.weights.make_room(part, payloads, averaged=True)
                # until the exchange the part itself has nothing staged
                assert part.staged is not None
                self._means[part], part.staged = part.staged, None
                self._payloads[part] = payloads
        except BaseException:
            self.discard()
            raise
        self._background.start([p for of in self._payloads.values() for p in of], old.shares())

    def wait(self) -> float:
        """Wait for the mean; returns for how many seconds this worker has."""
        before = self._background.waited_sec
        self._traffic += self._background.wait()
        return self._background.waited_sec - before

    def take_traffic(self) -> Traffic:
        """The bytes moved since this was last asked."""
        taken, self._traffic = self._traffic, Traffic()
        return taken

    def has(self, part: Part, state: object) -> bool:
        """Whether a state of a part has travelled ahead."""
        return state is self.weights and part in self._payloads

    def stage(self, part: Part) -> list[Payload]:
        """The payloads of a part that has travelled ahead; its mean is staged."""
        part.staged = self._means[part]
        return self._payloads[part]

    @torch.no_grad()
    def correct(self, part: Part) -> None:
        """Compute what the weights of this worker will be; the mean has been changed by the protocol."""
        assert part.flat is not None and part.staged is not None
        corrected = self._snapshots[part]
        torch.sub(part.flat.flat, corrected, out=corrected)
        corrected += part.staged

    def commit(self, part: Part) -> Tensor:
        """The exchange is accepted: returns the new weights of a part; may not fail."""
        if self.keeps_reference:
            part.agreed = part.staged
        return self._snapshots[part]

    def discard(self) -> None:
        """Let go of everything, once it has been waited for."""
        self._payloads, self._snapshots, self._means, self.used = {}, {}, {}, False


def _copy_of(tensor: Tensor) -> Tensor:
    return empty_flat(tensor.numel(), tensor.dtype, tensor.device).copy_(tensor)
