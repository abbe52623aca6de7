"""Every setting of a run, with what it is predicted to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from ...builders import build_codec
from ...exchange import Codec, ExchangePlan
from ...partition import Assignment, PartitionSampler
from ..cost import PartSize, RoundCost, Schedule, ddp_cost, local_sgd_cost, resist_cost, warmup_cost
from ..cost.counted_run import CountedRun
from .seconds import Costs, ahead_sec, ddp_iteration_sec, exchange_sec, iteration_sec

__all__ = ['MOST_AHEAD', 'Setting', 'settings_of']

# of a round; in small runs 2 of 25 iterations showed no loss (0.5 points with an outer step), 5 of 25 did
MOST_AHEAD = 0.1


@dataclass(frozen=True)
class Setting:
    """A protocol, a codec, a length of rounds and overlap. Bytes are those of all workers together.

    Attributes:
        protocol: 'resist', 'local_sgd' or 'ddp'.
        codec: Name of the codec.
        local_iters: Iterations of a round; of data-parallel training, as many.
        seconds: Of a round.
        exchange_sec: Those of them that communication takes.
        bytes: Of a round.
        run_seconds: Of the run; None: its length is not known.
        run_bytes: Of the run.
        overlap_iters: Iterations beside which the shared part is averaged.
    """

    protocol: str
    codec: str
    local_iters: int
    seconds: float
    exchange_sec: float
    bytes: float
    run_seconds: float | None
    run_bytes: float | None
    overlap_iters: int = 0

    @property
    def exchange_share(self) -> float:
        """Share of a round that communication takes."""
        return self.exchange_sec / self.seconds


def settings_of(
    run: CountedRun,
    num_workers: int,
    local_iters: Sequence[int],
    costs: Costs,
    samples: int = 100,
    seed: int = 0,
    overlap_iters: Sequence[int] | None = None,
) -> list[Setting]:
    """All settings of a run: protocols, ``run.codecs``, lengths of a round, and overlap.

    Args:
        run (CountedRun): The run.
        num_workers (int): Number of workers.
        local_iters (Sequence[int]): Lengths of a round.
        costs (Costs): Of the machines and their links.
        samples (int): Number of rounds of ResIST to average over. Defaults to 100.
        seed (int): Of the partition. Defaults to 0.
        overlap_iters (Sequence[int], optional): Values of that option, where rounds are longer, and the codec and
            the run's hook can be combined with it. Defaults to None: 0, and as many as hide the average of the
            shared part, at most :data:`MOST_AHEAD` of a round.

    Raises:
        ValueError: If the blocks cannot be dealt out like that.
    """
    codecs = {name: build_codec(cfg) for name, cfg in run.codecs.items()}
    overlap_iters = overlap_iters if run.can_overlap else [0]
    settings: list[Setting] = []
    if run.network.blocks:
        of_resist = _ResIST(run, num_workers, costs, samples, seed, overlap_iters)
        for name, codec in codecs.items():
            settings += of_resist.settings(name, codec, local_iters)
    for name, codec in codecs.items():
        seconds = _of_local_sgd(run, num_workers, costs, codec, name)
        cost = local_sgd_cost(run.travelling, num_workers, codec)
        ahead = _Ahead(costs, run.network.whole, num_workers, codec, overlap_iters)
        for iters in local_iters:
            settings += _settings(run, iters, name, cost, costs.whole_sec, seconds, ahead)
    for iters in local_iters:
        cost = ddp_cost(run.network, num_workers, iters)
        of_iteration = ddp_iteration_sec(costs, run.network, num_workers)
        exchange = (of_iteration - costs.whole_sec) * iters
        seconds = RoundCost('ddp', num_workers, 0, exchange, exchange, iters)
        settings += _settings(run, iters, 'none', cost, costs.whole_sec, seconds)
    return settings


@dataclass(frozen=True)
class _Ahead:
    """What of an exchange passes beside iterations.

    Attributes:
        costs: Of the machines and their links.
        shared: What is averaged ahead.
        num_workers: Number of workers.
        codec: How its weights are compressed.
        asked: Numbers of iterations; None: 0, and what is enough.
    """

    costs: Costs
    shared: PartSize
    num_workers: int
    codec: Codec | None
    asked: Sequence[int] | None

    def options(self, local_iters: int, iteration: float) -> list[tuple[int, float]]:
        """Numbers of iterations, and the seconds of an exchange that each of them hides."""
        seconds = ahead_sec(self.costs, self.shared, self.num_workers, self.codec)
        if self.asked is None:
            found = {0, min(math.ceil(seconds / iteration), int(MOST_AHEAD * local_iters))}
        else:
            found = {iters for iters in self.asked if iters < local_iters}
        if self.codec is not None and self.codec.is_random:
            found &= {0}
        return [(iters, min(seconds, iters * iteration)) for iters in sorted(found)]


class _ResIST:
    """The settings of ResIST, over the same sampled rounds."""

    def __init__(
        self,
        run: CountedRun,
        num_workers: int,
        costs: Costs,
        samples: int,
        seed: int,
        overlap_iters: Sequence[int] | None,
    ) -> None:
        self.run, self.num_workers, self.costs, self.samples, self.seed = run, num_workers, costs, samples, seed
        self.overlap_iters = overlap_iters
        num_blocks = len(run.network.blocks)
        sampler = PartitionSampler(num_blocks, num_workers, run.min_blocks, seed)
        rounds = [sampler.sample(index) for index in range(samples + 1)]
        full = Assignment.full(num_workers, num_blocks)
        self.usual = [ExchangePlan.between(old, new) for old, new in pairwise(rounds)]
        self.whole = [ExchangePlan.between(old, full) for old in rounds[:samples]]
        self.warmup = ExchangePlan.between(full, rounds[0])
        self.iteration_sec = fmean(iteration_sec(costs, num_blocks, old) for old in rounds[:samples])

    def settings(self, name: str, codec: Codec | None, local_iters: Sequence[int]) -> list[Setting]:
        """Of a codec."""
        run, momentum = self.run, self.run.outer_momentum_bytes
        travelling = run.travelling

        def seconds(plans: Sequence[ExchangePlan], codec: Codec | None) -> float:
            return fmean(exchange_sec(self.costs, travelling, plan, codec, name, momentum) for plan in plans)

        validated = None if codec is None or codec.exact_whole else seconds(self.whole, codec)
        exchange = RoundCost(
            'resist', self.num_workers, 0, seconds(self.usual, codec), seconds(self.whole, None), 0,
            validation_wire=validated,
        )  # fmt: skip
        once = seconds([self.warmup], codec)
        warmup = RoundCost('local_sgd', self.num_workers, 0, once, once, 0)
        cost = resist_cost(travelling, self.num_workers, run.min_blocks, self.samples, self.seed, codec, momentum)
        of_warmup = warmup_cost(travelling, self.num_workers, codec), warmup
        ahead = _Ahead(self.costs, run.network.shared, self.num_workers, codec, self.overlap_iters)
        usual, whole = self.iteration_sec, self.costs.whole_sec
        settings: list[Setting] = []
        for iters in local_iters:
            settings += _settings(run, iters, name, cost, usual, exchange, ahead, of_warmup, whole)
        return settings


def _of_local_sgd(run: CountedRun, num_workers: int, costs: Costs, codec: Codec | None, name: str) -> RoundCost:
    """The seconds of an exchange of local SGD, in the place of bytes."""
    nothing = Assignment.full(num_workers, num_blocks=0)
    plan = ExchangePlan.between(nothing, nothing)
    whole = replace(run.travelling, shared=run.travelling.whole, blocks=())
    exact, usual = (exchange_sec(costs, whole, plan, c, name) for c in (None, codec))
    validated = None if codec is None or codec.exact_whole else usual
    return RoundCost('local_sgd', num_workers, 0, usual, exact, 1, validation_wire=validated)


def _settings(
    run: CountedRun,
    local_iters: int,
    codec: str,
    nbytes: RoundCost,
    iteration: float,
    exchange: RoundCost,
    ahead: _Ahead | None = None,
    warmup: tuple[RoundCost, RoundCost] | None = None,
    warmup_iteration: float = 0.0,
) -> list[Setting]:
    """Without and with overlap; ``exchange`` holds seconds where others hold bytes, ``warmup`` both."""
    schedule = _schedule(run, nbytes.num_workers, local_iters)
    settings = []
    for overlap, hidden in ahead.options(local_iters, iteration) if ahead else [(0, 0.0)]:
        # a round that ends with the whole model is averaged at its end; what is hidden in a warm-up is left out
        waited = replace(exchange, wire=exchange.wire - hidden)
        amounts: Mapping[str, Any] = dict(run_seconds=None, run_bytes=None)
        if schedule is not None:
            of_bytes, of_seconds = (None, None) if warmup is None else warmup
            warmup_iters = min(schedule.iters, schedule.warmup_rounds * local_iters) if warmup else 0
            compute = warmup_iters * warmup_iteration + (schedule.iters - warmup_iters) * iteration
            amounts = dict(
                run_seconds=compute + waited.per_run(schedule, of_seconds)[1],
                run_bytes=nbytes.per_run(schedule, of_bytes)[1],
            )
        of_round = local_iters * iteration + waited.wire, waited.wire, nbytes.wire
        settings.append(Setting(nbytes.protocol, codec, local_iters, *of_round, **amounts, overlap_iters=overlap))
    return settings


def _schedule(run: CountedRun, num_workers: int, local_iters: int) -> Schedule | None:
    return replace(run, local_iters=local_iters).schedule(num_workers)
