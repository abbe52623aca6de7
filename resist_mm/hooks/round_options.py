"""The options of training in rounds."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.builders import build_codec
from resist_mm.rounds import Engine, RoundProtocol, TravellingState
from resist_mm.rounds.arguments import (
    check_choice,
    check_count,
    check_flag,
    check_integer,
    check_keeps_momentum,
    is_number,
)
from resist_mm.rounds.overlap import check_overlap

from .loss_watch import LossWatch
from .of_runner import model_of, optimizers_of
from .pace import read_local_iters
from .protocols import build_protocol

__all__ = ['RoundOptions']


class RoundOptions(Hook):
    """The options of :class:`RoundHook`, checked, as attributes of the same names.

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
        keep_shared_momentum (bool): Whether each worker keeps its own momentum of the shared part (whatever the
            optimizer keeps of it) through exchanges: it is not sent, so that this costs no byte, and not cleared
            but when the model is made whole, which keeps a resumed run the same, or its round does not count.
            Momentum of blocks is as ``momentum_restart_interval`` says, which must not be None. Defaults to False.
        overlap_iters (int): Number of iterations at the end of a round during which the shared part is averaged in
            the background; what a worker trains in them is added; see :class:`Overlap`. Defaults to 0: off.

    Raises:
        ValueError: If an argument is out of range.
    """

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
        keep_shared_momentum: bool = False,
        overlap_iters: int = 0,
    ) -> None:
        interval = 1 if momentum_restart_interval is None else momentum_restart_interval
        most, iters_by_speed = read_local_iters(type(self).__name__, local_iters)
        self._check_counts(local_iters=most, speed_interval=speed_interval, momentum_restart_interval=interval)
        self._check_counts(bn_batches=bn_batches, bn_interval=bn_interval, max_bad_rounds=max_bad_rounds)
        name = type(self).__name__
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
        self.bn = bn
        self.bn_batches = bn_batches
        self.bn_interval = bn_interval
        self.codec = build_codec(codec)
        self.seed = self.protocol.seed if seed is None else seed
        self.bad_numbers = bad_numbers
        self.max_bad_rounds = max_bad_rounds
        self.max_loss_ratio = max_loss_ratio
        check_choice(f'{name}.on_worker_loss', on_worker_loss, 'stop', 'continue')
        check_flag(f'{name}.copies_on_host', copies_on_host)
        check_keeps_momentum(f'{name}.keep_shared_momentum', keep_shared_momentum, momentum_restart_interval)
        check_overlap(overlap_iters, bad_numbers, on_worker_loss, self.codec, f'{name}.', most)
        self.keep_shared_momentum = keep_shared_momentum
        self.overlap_iters = overlap_iters
        self.on_worker_loss = on_worker_loss
        self.copies_on_host = copies_on_host
        self._losses = None if max_loss_ratio is None else LossWatch(max_loss_ratio)
        self._batches: deque[Any] = deque(maxlen=bn_batches if bn == 'recalibrate' else 0)

    @property
    def batches(self) -> deque[Any]:
        """The last batches of this worker, if norms are recalibrated with them."""
        return self._batches

    @property
    def losses(self) -> LossWatch | None:
        """What is compared with ``max_loss_ratio``."""
        return self._losses

    def make_engine(self, runner: Runner, states: Sequence[TravellingState]) -> Engine:
        """The engine that these options describe.

        Args:
            runner (Runner): Of the run.
            states (Sequence[TravellingState]): What else travels.

        Raises:
            ValueError: If they do not suit the model.
        """
        try:
            return Engine(
                model_of(runner),
                optimizers_of(runner),
                self.protocol,
                self.codec,
                self.momentum_restart_interval,
                self.travels_every,
                states,
                self.bad_numbers,
                self.max_bad_rounds,
                self.on_worker_loss,
                self.copies_on_host,
                self.keep_shared_momentum,
                self.overlap_iters,
            )
        except ValueError as error:
            raise ValueError(f'{type(self).__name__}: {error}') from None

    @property
    def travels_every(self) -> int | None:
        """Number of rounds after which running statistics travel."""
        return self.bn_interval if self.bn == 'average' else None

    def _check_counts(self, **counts: int) -> None:
        for name, count in counts.items():
            check_count(f'{type(self).__name__}.{name}', count)
