"""The run whose communication is counted: that of a named network or of a config."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from math import ceil

from ..named_networks import ARCHITECTURES, CODECS, DATASETS
from .network_size import NetworkSize
from .round_cost import Schedule

__all__ = ['CountedRun', 'run_of']

DEFAULT_LOCAL_ITERS = 50  # of the hooks


@dataclass(frozen=True)
class CountedRun:
    """A run to be counted, without the number of workers; None where something is not known.

    Attributes:
        title: The network and the data set, in words.
        network: The sizes of the network.
        batch_size: Batch of one worker.
        local_iters: Iterations of a round.
        min_blocks: Minimum number of partitioned blocks of a worker.
        length: Number of training images.
        epochs: Passes over the data with two workers, and with more.
        iters: Iterations of the run, instead of length and epochs.
        averages: Number of moving averages of the weights that are kept (EMA); with rounds they travel, too.
        warmup_rounds: Rounds of local SGD before ResIST begins.
        whole_every: Intervals at which the model is made whole, in epochs or, if ``iters`` is given, iterations.
        saved_every: Those of checkpoints, if they are known apart; a codec may compress the others.
        outer_momentum: Whether blocks take an outer step, whose momentum travels with them.
        codecs: Configs of codecs, by the names that the output shows.
        notes: What the figures leave out.
        has_rounds: Whether the config has a hook that runs rounds.
        can_overlap: Whether that hook's options can be combined with ``overlap_iters``.
    """

    title: str
    network: NetworkSize
    batch_size: int | None
    local_iters: int
    min_blocks: int | None
    length: int | None
    epochs: tuple[float, float] | None
    iters: int | None = None
    averages: int = 0
    warmup_rounds: int = 0
    whole_every: tuple[int, ...] = ()
    saved_every: tuple[int, ...] | None = None
    outer_momentum: bool = False
    codecs: Mapping[str, dict | None] = field(default_factory=lambda: dict(none=None))
    notes: tuple[str, ...] = ()
    has_rounds: bool = False
    can_overlap: bool = True

    @property
    def travelling(self) -> NetworkSize:
        """The sizes of what travels in rounds."""
        return self.network.with_averages(self.averages)

    @property
    def outer_momentum_bytes(self) -> list[int]:
        """Size of the outer momentum that travels with each block; empty if there is none."""
        return [block.message_bytes() for block in self.network.blocks] if self.outer_momentum else []

    def schedule(self, num_workers: int) -> Schedule | None:
        """The schedule of the run with a given number of workers; None if it is not known."""
        per_epoch = None
        if self.length is not None and self.batch_size is not None:
            per_epoch = ceil(self.length / (num_workers * self.batch_size))
        if self.iters is not None:
            iters, unit = self.iters, 1
            epochs = None if per_epoch is None else iters / per_epoch
        elif per_epoch is not None and self.epochs is not None:
            epochs = self.epochs[0] if num_workers <= 2 else self.epochs[1]
            iters, unit = ceil(per_epoch * epochs), per_epoch
        else:
            return None
        whole, saved = (
            None
            if intervals is None
            else tuple(sorted({at for every in intervals for at in range(every * unit, iters + 1, every * unit)}))
            for intervals in (self.whole_every, self.saved_every)
        )
        return Schedule(iters, self.local_iters, epochs, self.warmup_rounds, whole or (), saved)


def named_run(args: argparse.Namespace) -> CountedRun:
    """The run of a named network, as in the paper."""
    arch = ARCHITECTURES[args.arch]
    name = args.dataset or arch.dataset
    data = DATASETS[name]
    size = arch.size(data.classes, tuple(args.image_size or (data.image_size, data.image_size)))
    return CountedRun(
        f'{args.arch}, {name}',
        size,
        data.batch_size,
        data.local_iters,
        min(data.min_blocks, len(size.blocks)),
        data.length,
        data.epochs,
        warmup_rounds=data.warmup_rounds,
    )


def config_run(args: argparse.Namespace, default_local_iters: int | None = None) -> CountedRun:
    """The run of a config file.

    Args:
        args (argparse.Namespace): Of the command.
        default_local_iters (int, optional): Iterations of a round, if the config has none. Defaults to None:
            the command line has to say.

    Raises:
        ValueError: If the file is not a config of a model, or if nothing says how long a round is.
    """
    with redirect_stdout(sys.stderr):  # some of what a config imports prints
        from .config_run import read_config

        found = read_config(args.config, tuple(args.image_size) if args.image_size else None)
    hook = found.hook
    if not hook and args.local_iters is None and default_local_iters is None:
        raise ValueError(
            f'{args.config} has neither ResISTHook nor LocalSGDHook in custom_hooks, so the length of a round is '
            'not known: give --local-iters'
        )
    outer = hook.get('outer') or {}
    notes = []
    if found.batch_size is None and args.batch_size is None:
        notes.append('the batch of a worker is not known: give --batch-size')
    if hook.get('momentum_restart_interval', 1) != 1:
        notes.append(
            f'not counted: momentum_restart_interval={hook["momentum_restart_interval"]}, so optimizer state '
            'travels with the parameters (with SGD, as much again, in fp32)'
        )
    if any(hook.get('begin_epoch') or hook.get('begin_iter') for hook in found.averages):
        notes.append('the moving average of the weights is counted from the first round, though it begins later')
    if hook.get('blocks') is not None:
        notes.append(f'not counted: blocks={hook["blocks"]!r}; all workers are taken to hold equally many')
    return CountedRun(
        args.config,
        found.network,
        found.batch_size,
        _local_iters(hook.get('local_iters', default_local_iters or DEFAULT_LOCAL_ITERS)),
        hook.get('min_blocks'),
        DATASETS[args.dataset].length if args.dataset else found.length,
        None if found.epochs is None else (found.epochs, found.epochs),
        found.iters,
        len(found.averages),
        hook.get('warmup_rounds', 0),
        found.whole_every,
        found.saved_every,
        bool(outer.get('blocks') and outer.get('momentum')),
        {codec_name(hook.get('codec')): hook.get('codec')},
        tuple(notes),
        bool(hook),
        all(hook.get(option, 'stop') == 'stop' for option in ('bad_numbers', 'on_worker_loss')),
    )


def _local_iters(given: int | str | dict) -> int:
    """The iterations of a round: with 'by_speed' those of the fastest worker."""
    if isinstance(given, str):
        return DEFAULT_LOCAL_ITERS
    return given['by_speed'] if isinstance(given, dict) else given


def codec_name(cfg: dict | None) -> str:
    """The short name of a codec's config, or its type."""
    known = (name for name, known in CODECS.items() if known == cfg)
    return next(known, cfg['type'] if cfg else 'none')


def run_of(args: argparse.Namespace) -> CountedRun:
    """The run to be counted, with the changes of the command line."""
    run = named_run(args) if args.config is None else config_run(args)
    given = {key: getattr(args, key) for key in ('batch_size', 'local_iters', 'min_blocks')}
    run = replace(run, **{key: value for key, value in given.items() if value is not None})
    if args.codec is not None:
        run = replace(run, codecs={name: CODECS[name] for name in args.codec})
    if args.num_images is not None:
        run = replace(run, length=args.num_images)
    if args.epochs is not None:
        every = run.whole_every if run.iters is None else ()  # those are counted in iterations
        run = replace(run, epochs=(args.epochs, args.epochs), iters=None, whole_every=every)
    return run
