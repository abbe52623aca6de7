"""The arguments of tools/train.py that convert a config."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import torch
from mmengine.config import Config, DictAction

from .convert import LOCAL_SGD_HOOK, RESIST_HOOK, Converted, to_ddp, to_local_sgd, to_resist
from .resumed import look_at_run

__all__ = ['Options', 'add_arguments', 'convert_as_asked']


class Options(DictAction):
    """KEY=VALUE pairs, or none."""

    def __call__(
        self, parser: ArgumentParser, namespace: Namespace, values: Any, option_string: str | None = None
    ) -> None:
        """Read the pairs."""
        for pair in values:
            if '=' not in pair:
                parser.error(
                    f'{option_string} takes KEY=VALUE, got {pair!r}; the config comes before {option_string}'
                )
        super().__call__(parser, namespace, values, option_string)  # type: ignore[arg-type]


def add_arguments(parser: ArgumentParser) -> None:
    """Add ``--resist``, ``--local-sgd`` and ``--ddp``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        '--resist',
        nargs='*',
        action=Options,
        metavar='KEY=VALUE',
        help='train this config by ResIST: finds blocks to partition, adds hook and wrapper, logs each change. '
        'Options: stages=backbone.layer3,backbone.layer2 min_blocks=2 and those of ResISTHook, as local_iters=50',
    )
    group.add_argument(
        '--local-sgd',
        nargs='*',
        action=Options,
        metavar='KEY=VALUE',
        help='train this config by local SGD. Options: those of LocalSGDHook, as local_iters=50',
    )
    group.add_argument(
        '--ddp',
        action='store_true',
        help='train this config data-parallel, also on CPUs; there SyncBN becomes BN',
    )


def convert_as_asked(cfg: Config, args: Namespace, work_dir: str) -> Converted:
    """Convert a config as the command line asks; without one of these arguments it stays.

    A run that is resumed keeps its stages and the options of its hook, also with another number of workers, except
    those that the command line names. The activation scales in its checkpoint are those of its stages.

    Args:
        cfg (Config): The config, with the changes of ``--cfg-options``.
        args (Namespace): The arguments.
        work_dir (str): Folder of the run.

    Raises:
        FileNotFoundError: If there is no checkpoint to resume from.
        ValueError: If it cannot be converted.
        CheckpointError: If the checkpoint to resume from is damaged or not safe to read.
    """
    if args.resist is not None:
        options = _nested(args.resist)
        if 'workers' in options:
            raise ValueError('--resist: the number of workers is that of the launcher, leave workers= out')
        options, notes = _of_the_run(cfg, args, work_dir, RESIST_HOOK, options)
        converted, changes = to_resist(cfg, **options)
        return Converted(converted, notes + changes)
    if args.local_sgd is not None:
        options, notes = _of_the_run(cfg, args, work_dir, LOCAL_SGD_HOOK, _nested(args.local_sgd))
        converted, changes = to_local_sgd(cfg, **options)
        return Converted(converted, notes + changes)
    if args.ddp:
        return to_ddp(cfg, sync_bn=torch.cuda.is_available())
    return Converted(cfg, [])


def _of_the_run(
    cfg: Config, args: Namespace, work_dir: str, hook: str, asked: dict[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """The options asked for, with those of the run that is resumed as defaults; and notes about them."""
    if args.resume is None:
        return asked, []
    run = look_at_run(cfg, args.resume, work_dir, hook)
    return {**run.kept(asked), **asked}, run.notes(asked)


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """``{'codec.type': 'bf16'}`` is ``{'codec': {'type': 'bf16'}}``."""
    nested = Config()
    nested.merge_from_dict(options)
    return nested.to_dict()
