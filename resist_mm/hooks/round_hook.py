"""Connects the Runner's events with the round engine."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from math import inf
from typing import Any

from mmengine.dist import broadcast_object_list
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

from resist_mm.builders import build_codec
from resist_mm.models.compile_blocks import compile_blocks
from resist_mm.models.wrappers import not_distributed
from resist_mm.registry import HOOKS
from resist_mm.rounds import Engine, RoundProtocol
from resist_mm.rounds.agreement import agree, digest
from resist_mm.rounds.batch_norm import recalibrated_norms, settle_buffers

from .checks import check_can_recalibrate, check_generic_blocks, check_has_blocks, check_runner
from .cuts import dataloader_length, saves_after_epoch, saves_after_iter
from .lone_modules import detach_from_others
from .loss_watch import LossWatch
from .moving_average import HookedAverage, averages_of, update_before
from .protocols import build_protocol
from .round_log import RoundLog, now, warn_of_cuts, warn_of_scaled_lr

__all__ = ['RoundHook']

ROUND_KEY = 'resist_mm_round'
SEED_KEY = 'resist_mm_seed'
PROTOCOL_KEY = 'resist_mm_protocol'
BAD_ROUNDS_KEY = 'resist_mm_bad_rounds'


@HOOKS.register_module()
class RoundHook(Hook):
    """Trains in rounds; a protocol decides who holds which blocks in each.

    A round consists of ``local_iters`` iterations, which every worker trains
    independently, and the exchange that ends it. It continues across the end of an
    epoch. After it either the next round follows, and blocks go straight from their
    old holders to the new ones; or the model is made whole, because it is about to be
    validated or saved. Whatever needs the whole model ends the round early, and the
    log says so.

    Guarantees, in addition to those of :class:`Engine`:

    - When the model is whole, all workers have the same parameters and buffers,
      bit for bit. It stays whole until the next training iteration.
    - Checkpoints hold the whole model in mmengine's ordinary format, and the index
      of the next round. A resumed run deals the blocks as the original run would
      have; it may use another number of workers.
    - A moving average of the weights (mmengine's ``EMAHook``, as in mmdet's YOLOX and RTMDet configs) travels with
      the weights, which doubles what is sent and staged: a worker keeps it of the blocks that it holds, and it is
      whole, and the same on all workers, when the model is. It is what is validated and saved, as with mmengine
      alone; :class:`HookedAverage` says what becomes of its buffers.
    - If a worker dies in a round, the others find out at the next exchange, by
      the timeout of the process group; everything trained since the last
      checkpoint is lost.
    - Numbers that are not finite never get from one worker to the others, nor into a checkpoint, in weights,
      running statistics and whatever else travels: at every exchange the workers vote. Steps that a loss scaler
      skips (AMP) leave weights finite and are no bad numbers. Any other buffer is that of worker 0 and is not
      looked at, since it may hold infinity on purpose.

    The model wrapper must not exchange gradients::

        model_wrapper_cfg = dict(type='resist_mm.LocalModel')

    Args:
        protocol (dict or RoundProtocol): Who holds what: ``dict(type='ResIST')``, ``dict(type='LocalSGD')``, or
            one that is registered in ``resist_mm.registry.PROTOCOLS``.
        local_iters (int): Iterations of a round, l in the paper. Defaults to 50.
        momentum_restart_interval (int, optional): Number of rounds after which the
            optimizer's state is cleared (in the authors' scripts: after every round).
            Between restarts momentum is averaged and handed over with the parameters.
            None: it is never cleared. Gradients that are still being accumulated
            when a round ends are dropped. Defaults to 1.
        bn (str): How BatchNorm gets running statistics for the whole model.
            'recalibrate': the last training batches run through it. 'average':
            they travel with the parameters. Defaults to 'recalibrate'.
        bn_batches (int): Number of batches of each worker to recalibrate with.
            Defaults to 8.
        bn_interval (int): With 'average', number of rounds after which statistics
            travel; they also do whenever the model is made whole. Defaults to 1.
        codec (dict, optional): How weights are compressed from round to round:
            ``dict(type='bf16')``, ``dict(type='quantize', bits=6)``,
            ``dict(type='topk', share=0.25)``, with the arguments of the classes in
            ``resist_mm/exchange/codec.py`` (Appendix A.5), or one that is registered in
            ``resist_mm.registry.CODECS``. Making the model whole is always exact. Defaults to None: fp32.
        seed (int, optional): Seed of the partition. Defaults to None: worker 0's
            ``runner.seed``.
        bad_numbers (str): What happens if weights, or whatever travels with them, are not finite on some worker at
            the end of a round. 'stop': training ends on all workers with :class:`BadNumbers`, which names the
            worker, the round, the block and the parameter; the last checkpoint stays. 'drop': training goes on as
            if that worker had not taken part in the round; see :class:`Engine`. It is logged and counted
            (``train/bad_rounds``), and every worker keeps a copy of the weights that it holds. Defaults to 'stop'.
        max_bad_rounds (int): With 'drop', so many bad rounds in a row end training. Defaults to 3.
        max_loss_ratio (float, optional): A number above 1: the round of a worker is also bad if its mean loss is
            more than so many times the usual one of that worker, or not finite; see :class:`LossWatch`. Defaults
            to None: losses are not looked at.

    Raises:
        ValueError: If an argument is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        protocol: dict | RoundProtocol,
        local_iters: int = 50,
        momentum_restart_interval: int | None = 1,
        bn: str = 'recalibrate',
        bn_batches: int = 8,
        bn_interval: int = 1,
        codec: dict | None = None,
        seed: int | None = None,
        bad_numbers: str = 'stop',
        max_bad_rounds: int = 3,
        max_loss_ratio: float | None = None,
    ) -> None:
        interval = 1 if momentum_restart_interval is None else momentum_restart_interval
        self._check_counts(local_iters=local_iters, momentum_restart_interval=interval)
        self._check_counts(bn_batches=bn_batches, bn_interval=bn_interval, max_bad_rounds=max_bad_rounds)
        if bn not in ('recalibrate', 'average'):
            raise ValueError(f"{type(self).__name__}.bn must be 'recalibrate' or 'average', got {bn!r}")
        if bad_numbers not in ('stop', 'drop'):
            raise ValueError(f"{type(self).__name__}.bad_numbers must be 'stop' or 'drop', got {bad_numbers!r}")
        if max_loss_ratio is not None and not _is_ratio(max_loss_ratio):
            raise ValueError(
                f'{type(self).__name__}.max_loss_ratio must be None or a number above 1, got {max_loss_ratio!r}'
            )
        self.protocol = build_protocol(protocol)
        self.local_iters = local_iters
        self.momentum_restart_interval = momentum_restart_interval
        self.bn = bn
        self.bn_interval = bn_interval
        self.codec = build_codec(codec)
        self.seed = seed
        self.bad_numbers = bad_numbers
        self.max_bad_rounds = max_bad_rounds
        self._losses = None if max_loss_ratio is None else LossWatch(max_loss_ratio)
        self.engine: Engine | None = None  # created in before_train
        self._averages: list[HookedAverage] = []
        self._iters_done = 0
        self._batches: deque[Any] = deque(maxlen=bn_batches if bn == 'recalibrate' else 0)

    def announce(self, runner: Runner) -> None:
        """Log what is about to happen; for subclasses."""

    @property
    def round(self) -> int:
        """Index of the current round, or of the next one if the model is whole."""
        return 0 if self.engine is None else self.engine.round

    def before_train(self, runner: Runner) -> None:
        """Set up the engine; by now weights are initialised, loaded or resumed.

        Raises:
            ValueError: If the config is incompatible with training in rounds.
            RuntimeError: If the workers disagree on what to do.
        """
        name = type(self).__name__
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        check_runner(runner, name)
        detach_from_others(model)
        compile_blocks(runner.model, runner.cfg.get('compile'))
        if self.bn == 'recalibrate' and recalibrated_norms(model):
            check_can_recalibrate(model, name)
        info = runner.message_hub.runtime_info
        bn_interval = self.bn_interval if self.bn == 'average' else None
        update_before(runner, self)
        self._averages = averages_of(runner, model, bn_interval)
        agree(
            {
                'the index of the round to begin with': info.get(ROUND_KEY, 0),
                'the seed in the checkpoint to resume': info.get(SEED_KEY),
                f'{name}.seed': self.seed,
                f'{name}.local_iters': self.local_iters,
                f'{name}.bad_numbers': self.bad_numbers,
                'the length of train_dataloader': dataloader_length(runner),
                'the weights to start from (digest)': digest(model),
                **{key: value for average in self._averages for key, value in average.what_must_agree().items()},
            }
        )
        self.seed = self.protocol.seed = self._common_seed(runner, info.get(SEED_KEY))
        if self.protocol.deals_blocks:
            check_has_blocks(model, name)
            check_generic_blocks(runner, model, lambda batch: _forward(runner, batch))
        try:
            self.engine = Engine(
                model,
                _optimizers(runner),
                self.protocol,
                self.codec,
                self.momentum_restart_interval,
                bn_interval,
                [state for average in self._averages for state in average.states],
                self.bad_numbers,
                self.max_bad_rounds,
            )
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
        for average in self._averages:
            average.begin(self.engine)
        self.engine.round = info.get(ROUND_KEY, 0)
        self.engine.bad_rounds.load_state_dict(info.get(BAD_ROUNDS_KEY, {}))
        if PROTOCOL_KEY in info:
            self.protocol.load_state_dict(info[PROTOCOL_KEY])
        self._log = RoundLog(runner, self.engine)
        self._remember(runner)
        self.announce(runner)
        warn_of_scaled_lr(runner, self.engine.num_workers)
        warn_of_cuts(runner, self.local_iters, self.engine.num_workers)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Exchange if the round is full; begin a round if none is running."""
        assert self.engine is not None
        if self.engine.in_sync:
            self.engine.begin_round()
        elif self._iters_done >= self.local_iters:
            self._end_round(runner, whole=False)
        else:
            return
        self._iters_done = 0
        self._began = now()
        self._log.begin()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count the iteration; make the model whole if a checkpoint is about to be saved."""
        self._iters_done += 1
        self._batches.append(data_batch)
        if self._losses is not None:
            self._losses.see(outputs)
        if any(saves_after_iter(hook, runner) for hook in runner.hooks):
            self._make_whole(runner, 'a checkpoint')

    def after_train_epoch(self, runner: Runner) -> None:
        """Make the model whole if a checkpoint is about to be saved."""
        if any(saves_after_epoch(hook, runner) for hook in runner.hooks):
            self._make_whole(runner, 'a checkpoint')

    def before_val(self, runner: Runner) -> None:
        """Make the model whole for evaluation."""
        self._make_whole(runner, 'validation')

    def after_train(self, runner: Runner) -> None:
        """Make the model whole: it is the result of training."""
        self._make_whole(runner, 'the end of training')

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse to save a sub-ResNet.

        Raises:
            RuntimeError: If a round is running.
        """
        if self.engine is not None and not self.engine.in_sync:
            raise RuntimeError(
                'a checkpoint would be saved inside a round, while the workers hold different blocks. Save '
                "with mmengine's CheckpointHook, for which the round ends first, or after validation or training"
            )

    def _make_whole(self, runner: Runner, reason: str) -> None:
        if self.engine is not None and not self.engine.in_sync:
            self._log.end_early(self.engine.round, self._iters_done, self.local_iters, reason)
            self._end_round(runner, whole=True)

    def _end_round(self, runner: Runner, whole: bool) -> None:
        assert self.engine is not None and self.engine.assignment is not None
        index, depth = self.engine.round, len(self.engine.assignment.blocks(self.engine.rank))
        ended = now()
        traffic = self.engine.exchange(whole, '' if self._losses is None else self._losses.complaint(runner))
        exchange_sec = now() - ended
        if self.engine.rank in self.engine.bad_rounds.left_out:
            self._batches.clear()  # one of them may be what made the numbers bad
        if whole:
            how = (self.engine, self.bn == 'average', list(self._batches), lambda batch: _forward(runner, batch))
            traffic += settle_buffers(*how)
            for average in self._averages:
                traffic += average.settle(*how)
        if self._losses is not None and self.engine.rank not in self.engine.bad_rounds.left_out:
            self._losses.accept()
        self._log.end(index, depth, self._iters_done, traffic, ended - self._began, exchange_sec)
        self._remember(runner)

    def _common_seed(self, runner: Runner, resumed: int | None) -> int:
        if resumed is not None:
            if self.seed not in (None, resumed):
                runner.logger.warning(
                    f'{type(self).__name__}.seed is {self.seed}, but the run to resume used {resumed}: using that '
                    'seed, so that its rounds continue'
                )
            return resumed
        if self.seed is not None:
            return self.seed
        # with diff_rank_seed every worker has a different runner.seed
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        return seeds[0]

    def _remember(self, runner: Runner) -> None:
        runner.message_hub.update_info(ROUND_KEY, self.round)
        runner.message_hub.update_info(SEED_KEY, self.seed)
        if self.engine is not None and self.engine.bad_rounds.drops:
            runner.message_hub.update_info(BAD_ROUNDS_KEY, self.engine.bad_rounds.state_dict())
        state = self.protocol.state_dict()
        if state:
            runner.message_hub.update_info(PROTOCOL_KEY, state)

    def _check_counts(self, least: int = 1, **counts: int) -> None:
        for name, count in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < least:
                raise ValueError(
                    f'{type(self).__name__}.{name} must be an integer of at least {least}, got {count!r}'
                )


def _is_ratio(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 1 < value < inf


def _optimizers(runner: Runner) -> list:
    wrapper = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [wrapper.optimizer for wrapper in wrappers]


def _forward(runner: Runner, batch: Any) -> None:
    """Run the model on a training batch as ``BaseModel.train_step`` does, in the precision of training."""
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    wrapper = runner.optim_wrapper
    precision = nullcontext() if isinstance(wrapper, OptimWrapperDict) else wrapper.optim_context(runner.model)
    with not_distributed(), precision:
        data = model.data_preprocessor(batch, True)
        model(**data, mode='loss') if isinstance(data, dict) else model(*data, mode='loss')
