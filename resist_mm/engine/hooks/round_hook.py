"""The round: local iterations, then the exchange that ends it."""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import torch
from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from resist_mm.exchange import Traffic, build_codec
from resist_mm.models.compile_blocks import compile_blocks
from resist_mm.partition import Assignment

from ..batch_norm import recalibrated_norms, settle_buffers
from ..checks import agree, check_can_recalibrate, check_runner, digest
from ..optimizer_state import OptimizerState
from ..worker_rounds import WorkerRounds
from ..worker_state import WorkerState
from .cuts import cut_rounds, dataloader_length, saves_after_epoch, saves_after_iter, whole_model_iters

__all__ = ['RoundHook']

ROUND_KEY = 'resist_mm_round'
SEED_KEY = 'resist_mm_seed'
TOLERATED_CUTS = 0.1
MB = 1e6


class RoundHook(Hook):
    """Runs training in rounds; a protocol says who holds which blocks in each.

    A round is ``local_iters`` iterations that every worker trains by itself and
    the exchange that ends it. It runs on over the end of an epoch. Either another
    round follows, then blocks go straight from their old holders to the new ones;
    or the model is made whole, because somebody is about to validate or save it.
    Whatever needs the whole model ends the round early, and the log says so.

    What holds:

    - Inside a round no worker waits for another: there is no collective.
    - When the model is whole, all workers have the same parameters and buffers,
      bit for bit. It stays whole until the next training iteration.
    - Checkpoints hold the whole model in mmengine's ordinary format, and the index
      of the next round. A resumed run deals the blocks as the first one would
      have, also with another number of workers.
    - If a worker fails in a round, the others find out at the next exchange, by
      the timeout of the process group; what was trained since the last
      checkpoint is lost.

    The wrapper has to leave gradients alone::

        model_wrapper_cfg = dict(type='resist_mm.LocalModel')

    Args:
        local_iters (int): Iterations of a round, l in the paper. Defaults to 50.
        momentum_restart_interval (int, optional): The optimizer starts afresh
            every so many rounds (in the authors' scripts: every round). Between
            restarts momentum is averaged and handed over with the parameters.
            None: it never starts afresh. Gradients that are still being accumulated
            when a round ends are dropped. Defaults to 1.
        bn (str): How BatchNorm gets running statistics for the whole model.
            'recalibrate': the last training batches run through it. 'average':
            they travel with the parameters. Defaults to 'recalibrate'.
        bn_batches (int): Number of batches of each worker to recalibrate with.
            Defaults to 8.
        bn_interval (int): With 'average', statistics travel every so many rounds, and
            whenever the model is made whole. Defaults to 1.
        codec (dict, optional): How weights are compressed on their way from round to
            round: ``dict(type='bf16')``, ``dict(type='quantize', bits=6)``,
            ``dict(type='topk', share=0.25)``, with the arguments of the classes in
            ``resist_mm/exchange/codec.py`` (Appendix A.5). Making the model whole is
            always exact. Defaults to None: fp32.
        seed (int, optional): Seed of the partition. Defaults to None: worker 0's
            ``runner.seed``.

    Raises:
        ValueError: If an argument is out of range.
    """

    priority = 'NORMAL'
    deals_blocks = True  # whether the protocol deals out the blocks of partitioned stages

    def __init__(
        self,
        local_iters: int = 50,
        momentum_restart_interval: int | None = 1,
        bn: str = 'recalibrate',
        bn_batches: int = 8,
        bn_interval: int = 1,
        codec: dict | None = None,
        seed: int | None = None,
    ) -> None:
        self._check_counts(
            local_iters=local_iters,
            momentum_restart_interval=1 if momentum_restart_interval is None else momentum_restart_interval,
            bn_batches=bn_batches,
            bn_interval=bn_interval,
        )
        if bn not in ('recalibrate', 'average'):
            raise ValueError(f"{type(self).__name__}.bn must be 'recalibrate' or 'average', got {bn!r}")
        self.local_iters = local_iters
        self.momentum_restart_interval = momentum_restart_interval
        self.bn = bn
        self.bn_interval = bn_interval
        self.codec = build_codec(codec)
        self.seed = seed
        self.round = 0
        self.rounds: WorkerRounds | None = None  # before_train makes it
        self._iters_done = 0
        self._batches: deque[Any] = deque(maxlen=bn_batches if bn == 'recalibrate' else 0)

    def _check_counts(self, least: int = 1, **counts: int) -> None:
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ValueError(
                    f'{type(self).__name__}.{name} must be an integer of at least {least}, got {count!r}'
                )

    def set_up_protocol(self, runner: Runner, rounds: WorkerRounds) -> None:
        """Prepare what a protocol needs, and check that the model suits it."""

    def assign(self, round_index: int) -> Assignment:
        """Who holds which blocks in a round. Subclasses say so."""
        raise NotImplementedError

    def before_train(self, runner: Runner) -> None:
        """Set up; by now weights are initialised, loaded or resumed.

        Raises:
            ValueError: If the config does not go together with rounds.
            RuntimeError: If the workers disagree on what they are to do.
        """
        name = type(self).__name__
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_runner(runner, name)
        compile_blocks(runner.model, runner.cfg.get('compile'))
        if self.bn == 'recalibrate' and recalibrated_norms(model):
            check_can_recalibrate(model, name)
        info = runner.message_hub.runtime_info
        self.round = info.get(ROUND_KEY, 0)
        agree(
            {
                'the index of the round to begin with': self.round,
                'the seed in the checkpoint to resume': info.get(SEED_KEY),
                f'{name}.seed': self.seed,
                f'{name}.local_iters': self.local_iters,
                'the length of train_dataloader': dataloader_length(runner),
                'the weights to start from (digest)': digest(model),
            }
        )
        self.seed = self._common_seed(runner, info.get(SEED_KEY))
        worker = WorkerState(model, OptimizerState(runner.optim_wrapper), self.deals_blocks)
        self.rounds = WorkerRounds(worker, self.codec)
        self.set_up_protocol(runner, self.rounds)
        self._remember(runner)
        self._warn(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Exchange after a full round; begin a round if none is running."""
        assert self.rounds is not None
        if self.rounds.is_whole:
            self.rounds.begin(self.assign(self.round))
            self._round_began(runner)
        elif self._iters_done >= self.local_iters:
            self._end_round(runner, self.assign(self.round + 1))
            self._round_began(runner)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count the iteration; make the model whole if it is about to be saved."""
        self._iters_done += 1
        self._batches.append(data_batch)
        if any(saves_after_iter(hook, runner) for hook in runner.hooks):
            self._make_whole(runner, 'a checkpoint')

    def after_train_epoch(self, runner: Runner) -> None:
        """Make the model whole if it is about to be saved."""
        if any(saves_after_epoch(hook, runner) for hook in runner.hooks):
            self._make_whole(runner, 'a checkpoint')

    def before_val(self, runner: Runner) -> None:
        """Make the model whole: it is what is evaluated."""
        self._make_whole(runner, 'validation')

    def after_train(self, runner: Runner) -> None:
        """Make the model whole: it is what training returns."""
        self._make_whole(runner, 'the end of training')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save a sub-ResNet.

        Raises:
            RuntimeError: If a round is running.
        """
        if self.rounds is not None and not self.rounds.is_whole:
            raise RuntimeError(
                'a checkpoint would be saved inside a round, when the workers hold different blocks. Save '
                "with mmengine's CheckpointHook, which is foreseen, or after validation or training"
            )

    def _make_whole(self, runner: Runner, reason: str) -> None:
        if self.rounds is None or self.rounds.is_whole:
            return
        if self._iters_done < self.local_iters:
            runner.logger.info(
                f'Round {self.round} ends early, after {self._iters_done} of {self.local_iters} iterations: '
                f'{reason} needs the whole model'
            )
        self._end_round(runner, following=None)

    def _end_round(self, runner: Runner, following: Assignment | None) -> None:
        assert self.rounds is not None and self.rounds.assignment is not None
        compute_sec = _now() - self._began
        began = _now()
        interval = self.momentum_restart_interval
        restart = interval is not None and (self.round + 1) % interval == 0
        statistics = self.bn == 'average' and (following is None or (self.round + 1) % self.bn_interval == 0)
        depth = len(self.rounds.assignment.blocks(self.rounds.rank))
        traffic = self.rounds.exchange(following, restart, statistics)
        exchange_sec = _now() - began
        if following is None:
            traffic += settle_buffers(runner, self.rounds, self._batches, averaged=statistics)
        self._report(runner, depth, traffic, compute_sec, exchange_sec)
        self.round += 1
        self._remember(runner)

    def _common_seed(self, runner: Runner, resumed: int | None) -> int:
        if resumed is not None:
            if self.seed not in (None, resumed):
                runner.logger.warning(
                    f'{type(self).__name__}.seed is {self.seed}, but the run to resume has {resumed}: going on '
                    'with that, so that its rounds continue'
                )
            return resumed
        if self.seed is not None:
            return self.seed
        # with diff_rank_seed every worker has another runner.seed
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        return seeds[0]

    def _remember(self, runner: Runner) -> None:
        runner.message_hub.update_info(ROUND_KEY, self.round)
        runner.message_hub.update_info(SEED_KEY, self.seed)

    def _warn(self, runner: Runner) -> None:
        # OptimWrapperDict has no count of its own
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if self.local_iters % accumulated and self.rounds is not None and self.rounds.num_workers > 1:
            runner.logger.warning(
                f'local_iters={self.local_iters} is no multiple of accumulative_counts={accumulated}: gradients '
                'that are still being accumulated when a round ends are dropped'
            )
        cut, rounds = cut_rounds(self.local_iters, whole_model_iters(runner))
        if cut > TOLERATED_CUTS * rounds:
            runner.logger.warning(
                f'{cut} of {rounds} rounds will end early, because validation or a checkpoint needs the whole '
                f'model: choose intervals that are multiples of local_iters={self.local_iters} iterations '
                f'(an epoch has {dataloader_length(runner)}), or larger ones'
            )

    def _round_began(self, runner: Runner) -> None:
        assert self.rounds is not None and self.rounds.assignment is not None
        self._iters_done = 0
        self._began = _now()
        self._show(runner, round=self.round, depth=len(self.rounds.assignment.blocks(self.rounds.rank)))

    def _report(
        self, runner: Runner, depth: int, traffic: Traffic, compute_sec: float, exchange_sec: float
    ) -> None:
        scalars = dict(
            compute_sec=compute_sec,
            exchange_sec=exchange_sec,
            sent_mb=traffic.sent / MB,
            received_mb=traffic.received / MB,
            total_mb=traffic.total / MB,
            buffer_mb=traffic.buffers / MB,
        )
        self._show(runner, **scalars)
        assert self.rounds is not None
        blocks = self.rounds.worker.num_blocks
        runner.logger.info(
            f'Round {self.round}: '
            + (f'depth {depth} of {blocks} blocks, ' if blocks else '')
            + f'{self._iters_done} iterations in {compute_sec:.2f} s, exchange in {exchange_sec:.2f} s; '
            f'sent {traffic.sent / MB:.2f} MB, received {traffic.received / MB:.2f} MB, '
            f'all workers {traffic.total / MB:.2f} MB'
        )

    def _show(self, runner: Runner, **scalars: float) -> None:
        for key, value in scalars.items():
            runner.message_hub.update_scalar(f'train/{key}', value)


def _now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
