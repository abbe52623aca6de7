"""Connects the Runner's events with the round engine."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from mmengine.runner import Runner

from resist_mm.exchange import Traffic
from resist_mm.models.compile_blocks import compile_blocks
from resist_mm.registry import HOOKS
from resist_mm.rounds import Engine
from resist_mm.rounds.batch_norm import recalibrated_norms, settle_buffers
from resist_mm.rounds.whereabouts import enter, missing_workers_named

from .agreed import agree_on_start
from .ahead import Ahead
from .checks import check_can_recalibrate, check_generic_blocks, check_has_blocks, check_runner
from .cuts import saves_after_epoch, saves_after_iter
from .lone_modules import detach_from_others
from .moving_average import HookedAverage, averages_of, update_before
from .of_runner import model_of, run_on_batch
from .pace import Pace
from .resumed import begin_round, common_seed, continue_from, remember
from .round_log import RoundLog, now, warn_of_cuts, warn_of_scaled_lr
from .round_options import RoundOptions
from .worker_loss import follow, warn_of_launcher

__all__ = ['RoundHook']


@HOOKS.register_module()
class RoundHook(RoundOptions):
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
    - If a worker dies in a round, the others find out at the next exchange: at once, or by the timeout of the
      process group if its machine is silent. They raise :class:`LostWorker`, which names it; everything trained
      since the last checkpoint is lost.
    - Numbers that are not finite never get from one worker to the others, nor into a checkpoint, in weights,
      running statistics and whatever else travels: at every exchange the workers vote. Steps that a loss scaler
      skips (AMP) leave weights finite and are no bad numbers. Any other buffer is that of worker 0 and is not
      looked at, since it may hold infinity on purpose.

    The model wrapper must not exchange gradients::

        model_wrapper_cfg = dict(type='resist_mm.LocalModel')

    Args:
        **options: See :class:`RoundOptions`; of ``ResISTHook`` and ``LocalSGDHook`` also theirs.

    Raises:
        ValueError: If an argument is out of range.
    """

    priority = 'NORMAL'

    engine: Engine | None = None  # created in before_train
    _averages: Sequence[HookedAverage] = ()
    _iters_done = _lost = 0

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
        name, model = type(self).__name__, model_of(runner)
        check_runner(runner, name)
        detach_from_others(model)
        compile_blocks(runner.model, runner.cfg.get('compile'))
        if self.bn == 'recalibrate' and recalibrated_norms(model):
            check_can_recalibrate(model, name)
        update_before(runner, self)
        self._averages = averages_of(runner, model, self.travels_every)
        agree_on_start(runner, self, self._averages)
        self.seed = self.protocol.seed = common_seed(runner, self.seed, name)
        if self.protocol.deals_blocks:
            check_has_blocks(model, name)
            check_generic_blocks(runner, model, partial(run_on_batch, runner))
        self.engine = self.make_engine(runner, [state for average in self._averages for state in average.states])
        for average in self._averages:
            average.begin(self.engine)
        continue_from(runner, self.engine)
        keep = self._batches.maxlen or 0
        self.pace = Pace(runner, self.protocol, self.local_iters, self._position, keep)
        self._ahead = Ahead(runner, self.overlap_iters, self.local_iters)
        self._log = RoundLog(runner, self.engine)
        remember(runner, self.engine)
        self.announce(runner)
        warn_of_launcher(runner, self.engine)
        warn_of_scaled_lr(runner, self.engine.num_workers)
        warn_of_cuts(runner, self.local_iters, self.engine.num_workers)

    def before_train_epoch(self, runner: Runner) -> None:
        """Count the batches of the epoch."""
        self.pace.before_epoch(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Exchange if the round is full; begin a round if none is running."""
        assert self.engine is not None
        if self.engine.in_sync:
            begin_round(runner)
            self.engine.begin_round()
        elif self._iters_done >= self.local_iters:
            self._end_round(runner, whole=False)
        else:
            self.pace.before_iter()
            if self._ahead.is_due(self._iters_done):
                self.engine.average_ahead(self.pace.counts(self.local_iters))
            return
        self._iters_done = 0
        self.pace.begin_round(self.engine)
        self._began = now()
        self._log.begin()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Count the iteration; make the model whole if a checkpoint is about to be saved."""
        if not self.pace.sits_out:
            self.pace.after_iter(outputs)
            self._batches.append(data_batch)
            if self._losses is not None:
                self._losses.see(outputs)
        self._iters_done += 1
        if any(saves_after_iter(hook, runner) for hook in runner.hooks):
            self._make_whole(runner, 'a checkpoint')

    def after_train_epoch(self, runner: Runner) -> None:
        """Make the model whole if a checkpoint is about to be saved."""
        if any(saves_after_epoch(hook, runner) for hook in runner.hooks):
            self._make_whole(runner, 'a checkpoint')

    def before_val(self, runner: Runner) -> None:
        """Make the model whole for evaluation."""
        # the model of the last validation is the result of training
        self._make_whole(runner, 'validation', exact=runner.iter >= runner.max_iters)
        enter('validation')

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
        enter('saving a checkpoint')

    def _make_whole(self, runner: Runner, reason: str, exact: bool = True) -> None:
        if self.engine is not None and not self.engine.in_sync:
            self._log.end_early(self.engine.round, self._iters_done, self.local_iters, reason)
            exact = exact or self.codec is None or self.codec.exact_whole
            self._end_round(runner, whole=True, exact=exact)

    @missing_workers_named()
    def _end_round(self, runner: Runner, whole: bool, exact: bool = True) -> None:
        engine = self.engine
        assert engine is not None and engine.assignment is not None
        index, ended, waited = engine.round, now(), engine.transport.waited_sec
        counts = self.pace.counts(self._iters_done)
        trained = counts[engine.rank]
        self.protocol.trained(engine.rank, index, counts, ended - self._began)
        complaint = '' if self._losses is None else self._losses.complaint(runner)
        traffic = engine.exchange(whole, complaint, exact)
        exchange_sec = now() - ended
        self._lost = follow(runner, engine, self._lost)
        if engine.rank in engine.bad_rounds.left_out:
            self._batches.clear()  # one of them may be what made the numbers bad
        if whole:
            enter('running statistics of norms', index, waits=True)
            traffic += self._settle_buffers(runner, engine)
        if self._losses is not None:
            self._losses.end_round(counts=engine.rank not in engine.bad_rounds.left_out)
        waited = engine.transport.waited_sec - waited
        self._log.end(index, trained, traffic, ended - self._began, exchange_sec, waited)
        remember(runner, engine)

    def _position(self) -> int:
        return self.local_iters if self.engine is None or self.engine.in_sync else self._iters_done

    def _settle_buffers(self, runner: Runner, engine: Engine) -> Traffic:
        how = (engine, self.bn == 'average', list(self._batches), partial(run_on_batch, runner))
        traffic = settle_buffers(*how)
        for average in self._averages:
            traffic += average.settle(*how)
        return traffic
