"""Connects the Runner's events with the round engine."""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.builders import build_codec
from resist_mm.exchange import Traffic
from resist_mm.models.compile_blocks import compile_blocks
from resist_mm.registry import HOOKS
from resist_mm.rounds import Engine, RoundProtocol
from resist_mm.rounds.arguments import check_choice, check_count, check_flag, check_integer, is_number
from resist_mm.rounds.batch_norm import recalibrated_norms, settle_buffers
from resist_mm.rounds.overlap import check_overlap
from resist_mm.rounds.whereabouts import enter, missing_workers_named

from .agreed import agree_on_start
from .ahead import Ahead
from .checks import check_can_recalibrate, check_generic_blocks, check_has_blocks, check_runner
from .cuts import saves_after_epoch, saves_after_iter
from .lone_modules import detach_from_others
from .loss_watch import LossWatch
from .moving_average import HookedAverage, averages_of, update_before
from .of_runner import model_of, optimizers_of, run_on_batch
from .pace import Pace, read_local_iters
from .protocols import build_protocol
from .resumed import common_seed, continue_from, remember
from .round_log import RoundLog, now, warn_of_cuts, warn_of_scaled_lr
from .worker_loss import follow, warn_of_launcher

__all__ = ['RoundHook']


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
        protocol (dict or RoundProtocol): Who holds what: ``dict(type='ResIST')``, ``dict(type='LocalSGD')``, or
            one that is registered in ``resist_mm.registry.PROTOCOLS``.
        local_iters (int, str or dict): Iterations of a round, l in the paper. 'by_speed', or
            ``dict(by_speed=200)``: these are the iterations of the fastest worker, and slower ones train fewer, so
            that all rounds last equally long; in means a worker counts as much as it has iterations. For the
            Runner a round has as many iterations on all workers: a slow one sits some of them out, evenly spread,
            without loading data (:class:`Pace`). So schedules, epochs, validation and checkpoints stay in step,
            and the learning rate is the same everywhere. An epoch has as many iterations as before, but slow
            workers see only a part of their share of the data in it: the log says how much, and ``max_epochs`` or
            ``max_iters`` may have to be larger. Defaults to 50.
        speed_interval (int): Number of rounds after which the workers agree anew on how fast each is, if something
            goes by speed. The speeds are in the checkpoint. Defaults to 5.
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
            ``dict(type='topk', share=0.25)``, ``dict(type='changes', bits=2)``, with the arguments of the classes
            in ``resist_mm/exchange`` (Appendix A.5), or one that is registered in
            ``resist_mm.registry.CODECS``. Making the model whole is exact, but for validations with
            ``exact_whole=False`` of ``changes``. Defaults to None: fp32.
        seed (int, optional): Seed of the partition. Defaults to None: that of the protocol, or worker 0's
            ``runner.seed``.
        bad_numbers (str): What happens if weights, or whatever travels with them, are not finite on some worker at
            the end of a round. 'stop': training ends on all workers with :class:`BadNumbers`, which names the
            worker, the round, the block and the parameter; the last checkpoint stays. 'drop': training goes on as
            if that worker had not taken part in the round; see :class:`Engine`. It is logged and counted
            (``train/bad_rounds``), and every worker keeps a copy of the weights that it holds. Defaults to 'stop'.
        max_bad_rounds (int): With 'drop', number of bad rounds in a row that ends training. Defaults to 3.
        max_loss_ratio (float, optional): A number above 1: the round of a worker is also bad if its mean loss is
            more than this many times the usual one of that worker, or not finite; see :class:`LossWatch`. Defaults
            to None: losses are not looked at.
        on_worker_loss (str): What happens if a worker is gone at an exchange. 'stop': training ends on all of
            them. 'continue' (experimental, gloo only): the others go on without it; see :class:`Engine` and
            docs/reliability.md. Defaults to 'stop'.
        copies_on_host (bool): With 'continue', whether the copies that this takes are in the memory of the host.
            Defaults to False: on the device of the model.
        overlap_iters (int): The shared part is averaged in the background during so many of the last iterations
            of a round, and what a worker trains in them is added; see :class:`Overlap`. Defaults to 0: off.

    Raises:
        ValueError: If an argument is out of range.
    """

    priority = 'NORMAL'

    def __init__(
        self,
        protocol: dict | RoundProtocol,
        local_iters: int | str | dict = 50,
        momentum_restart_interval: int | None = 1,
        bn: str = 'recalibrate',
        bn_batches: int = 8,
        bn_interval: int = 1,
        codec: dict | None = None,
        seed: int | None = None,
        bad_numbers: str = 'stop',
        max_bad_rounds: int = 3,
        max_loss_ratio: float | None = None,
        speed_interval: int = 5,
        on_worker_loss: str = 'stop',
        copies_on_host: bool = False,
        overlap_iters: int = 0,
    ) -> None:
        interval = 1 if momentum_restart_interval is None else momentum_restart_interval
        most, iters_by_speed = read_local_iters(type(self).__name__, local_iters)
        counts = dict(local_iters=most, speed_interval=speed_interval, momentum_restart_interval=interval)
        counts |= dict(bn_batches=bn_batches, bn_interval=bn_interval, max_bad_rounds=max_bad_rounds)
        name = type(self).__name__
        for key, count in counts.items():
            check_count(f'{name}.{key}', count)
        if seed is not None:
            check_integer(f'{name}.seed', seed)
        check_choice(f'{name}.bn', bn, 'recalibrate', 'average')
        check_choice(f'{name}.bad_numbers', bad_numbers, 'stop', 'drop')
        if max_loss_ratio is not None and not (is_number(max_loss_ratio) and max_loss_ratio > 1):
            raise ValueError(f'{name}.max_loss_ratio must be None or a number above 1, got {max_loss_ratio!r}')
        self.protocol = build_protocol(protocol)
        self.local_iters = most
        self.iters_by_speed = self.protocol.iters_by_speed = iters_by_speed or self.protocol.iters_by_speed
        self.speed_interval = self.protocol.speed_interval = speed_interval
        self.momentum_restart_interval = momentum_restart_interval
        self.bn, self.bn_batches, self.bn_interval = bn, bn_batches, bn_interval
        self.codec = build_codec(codec)
        self.seed = self.protocol.seed if seed is None else seed
        self.bad_numbers, self.max_bad_rounds, self.max_loss_ratio = bad_numbers, max_bad_rounds, max_loss_ratio
        check_choice(f'{name}.on_worker_loss', on_worker_loss, 'stop', 'continue')
        check_flag(f'{name}.copies_on_host', copies_on_host)
        self.on_worker_loss, self.copies_on_host = on_worker_loss, copies_on_host
        check_overlap(overlap_iters, bad_numbers, on_worker_loss, self.codec, f'{name}.', most)
        self.overlap_iters = overlap_iters
        self._losses = None if max_loss_ratio is None else LossWatch(max_loss_ratio)
        self.engine: Engine | None = None  # created in before_train
        self._averages: list[HookedAverage] = []
        self._iters_done = self._lost = 0
        self._batches: deque[Any] = deque(maxlen=bn_batches if bn == 'recalibrate' else 0)

    def announce(self, runner: Runner) -> None:
        """Log what is about to happen; for subclasses."""

    @property
    def round(self) -> int:
        """Index of the current round, or of the next one if the model is whole."""
        return 0 if self.engine is None else self.engine.round

    @property
    def batches(self) -> deque[Any]:
        """The last batches of this worker, if norms are recalibrated with them."""
        return self._batches

    @property
    def losses(self) -> LossWatch | None:
        """What is compared with ``max_loss_ratio``."""
        return self._losses

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
        self._averages = averages_of(runner, model, self._travels_every)
        agree_on_start(runner, self, self._averages)
        self.seed = self.protocol.seed = common_seed(runner, self.seed, name)
        if self.protocol.deals_blocks:
            check_has_blocks(model, name)
            check_generic_blocks(runner, model, partial(run_on_batch, runner))
        self.engine = self._make_engine(runner)
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

    def _make_engine(self, runner: Runner) -> Engine:
        try:
            return Engine(
                model_of(runner),
                optimizers_of(runner),
                self.protocol,
                self.codec,
                self.momentum_restart_interval,
                self._travels_every,
                [state for average in self._averages for state in average.states],
                self.bad_numbers,
                self.max_bad_rounds,
                self.on_worker_loss,
                self.copies_on_host,
                self.overlap_iters,
            )
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: {error}') from None

    @property
    def _travels_every(self) -> int | None:
        """Number of rounds after which running statistics travel."""
        return self.bn_interval if self.bn == 'average' else None
