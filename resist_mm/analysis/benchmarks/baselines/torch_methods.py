"""What PyTorch itself offers: DDP, its communication hooks, and its averagers of models."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, post_localSGD_hook, powerSGD_hook
from torch.distributed.algorithms.model_averaging.averagers import ModelAverager, PeriodicModelAverager
from torch.distributed.algorithms.model_averaging.hierarchical_model_averager import HierarchicalModelAverager
from torch.distributed.algorithms.model_averaging.utils import average_parameters_or_parameter_groups
from torch.distributed.optim import PostLocalSGDOptimizer
from torch.nn.parallel import DistributedDataParallel

from .running import Batch, Running, Setup

__all__ = ['Averaged', 'DataParallel']

ONE_BUCKET = 1000  # MB
PAIR = 2  # workers that average more often than all do, of a hierarchy


def _wrap(setup: Setup, bucket_mb: int | None = None) -> DistributedDataParallel:
    # all workers have built the same model, and norms are recalibrated before an evaluation
    options: dict[str, Any] = dict(broadcast_buffers=False, init_sync=False, gradient_as_bucket_view=True)
    return DistributedDataParallel(setup.model, bucket_cap_mb=bucket_mb, **options)


class DataParallel(Running):
    """``DistributedDataParallel``, maybe with a communication hook.

    Args:
        setup (Setup): The model and its optimizer.
        hook (str, optional): 'bf16', or 'powersgd' with ``rank``, which begins after the warm-up. Defaults to
            None: gradients are averaged in fp32.
        rank (int): Of PowerSGD's matrices. Defaults to 1.
    """

    def __init__(self, setup: Setup, hook: str | None = None, rank: int = 1) -> None:
        super().__init__(setup)
        # PowerSGD's second all-reduce is started by the end of its first: over gloo those of two buckets may come
        # in another order on another worker, which is an error
        self.ddp = _wrap(setup, ONE_BUCKET if hook == 'powersgd' else None)
        cost = 'data-parallel'
        if hook == 'bf16':
            cost = 'data-parallel, bf16'
            self.ddp.register_comm_hook(None, default_hooks.bf16_compress_hook)
        elif hook == 'powersgd':
            cost, start = f'PowerSGD {rank}', setup.pace.warm_up
            state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=start)
            self.ddp.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
            self.iterations_before = start
        self.alone = {cost: lambda batch: self.compute(batch, self.ddp)}

    def iterate(self, index: int, batch: Batch, whole: bool) -> None:
        """One iteration; the hook counts them itself."""
        self.compute(batch, self.ddp)


class Averaged(Running):
    """``PostLocalSGDOptimizer`` with one of torch's averagers; momentum stays with each worker.

    Args:
        setup (Setup): The model and its optimizer.
        warm_up (bool): Whether gradients are averaged first, for as many iterations as the learning rate rises
            (``post_localSGD_hook``). Defaults to False.
        pairs (bool): Whether at the end of a round pairs of workers average, and only after every second one all
            do (``HierarchicalModelAverager``). Defaults to False.
    """

    def __init__(self, setup: Setup, warm_up: bool = False, pairs: bool = False) -> None:
        super().__init__(setup)
        self.pairs, self.warm_up = pairs, setup.pace.warm_up if warm_up else 0
        self.averager = self._averager()
        self.optimizer: Any = PostLocalSGDOptimizer(setup.optimizer, self.averager)
        self.forward: Callable[..., Any] = setup.model
        if warm_up:
            alone = [dist.new_group([rank]) for rank in range(dist.get_world_size())][dist.get_rank()]
            state = post_localSGD_hook.PostLocalSGDState(
                None, alone, start_localSGD_iter=self.warm_up, post_local_gradient_allreduce=False
            )
            self.forward = ddp = _wrap(setup)
            ddp.register_comm_hook(state, post_localSGD_hook.post_localSGD_hook)
        self.alone = (
            {} if warm_up else {'average of pairs': self._average} if pairs else {'average': self._average}
        )

    def _averager(self) -> ModelAverager:
        local_iters = self.setup.pace.local_iters
        if not self.pairs:
            # it counts from 0, after the step: this one averages after iteration local_iters, the first being 1
            return PeriodicModelAverager(local_iters, warmup_steps=(self.warm_up or local_iters) - 1)
        periods = OrderedDict([(local_iters, PAIR), (2 * local_iters, dist.get_world_size())])
        averager = HierarchicalModelAverager(periods)
        averager.step = 1  # likewise
        self.pair = averager.period_process_group_dict[local_iters]
        return averager

    def iterate(self, index: int, batch: Batch, whole: bool) -> None:
        """One iteration; the optimizer averages when it is time to."""
        self.compute(batch, self.forward)

    @torch.no_grad()
    def _average(self, batch: Batch) -> None:
        group = self.pair if self.pairs else self.averager.process_group
        average_parameters_or_parameter_groups(self.optimizer.param_groups, group)
