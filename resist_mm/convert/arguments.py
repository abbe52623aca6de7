"""The arguments of tools/train.py that convert a config."""

from __future__ import annotations

import os.path as osp
from argparse import ArgumentParser, Namespace
from typing import Any

from mmengine.config import Config, DictAction

from .convert import Converted, to_ddp, to_local_sgd, to_resist
from .edits import stages_of

__all__ = ['add_arguments', 'convert_as_asked']


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
    group.add_argument('--ddp', action='store_true', help='train this config data-parallel, also on CPUs')


def convert_as_asked(cfg: Config, args: Namespace, work_dir: str) -> Converted:
    """Convert a config as the command line asks; without one of these arguments it stays.

    A run that is resumed keeps its stages, also with another number of workers: the activation scales in its
    checkpoint are those of its stages.

    Args:
        cfg (Config): The config, with the changes of ``--cfg-options``.
        args (Namespace): The arguments.
        work_dir (str): Folder of the run.

    Raises:
        ValueError: If it cannot be converted.
    """
    if args.resist is not None:
        options = _nested(args.resist)
        if 'workers' in options:
            raise ValueError('--resist: the number of workers is that of the launcher, leave workers= out')
        before = _stages_before(cfg, work_dir) if args.resume is not None and 'stages' not in options else None
        if before is None:
            return to_resist(cfg, **options)
        resumed, changes = to_resist(cfg, **options, stages=before)
        return Converted(resumed, ['stages: those of the run that is resumed', *changes[1:]])
    if args.local_sgd is not None:
        return to_local_sgd(cfg, **_nested(args.local_sgd))
    return to_ddp(cfg) if args.ddp else Converted(cfg, [])


def _nested(options: dict[str, Any]) -> dict[str, Any]:
    """``{'codec.type': 'bf16'}`` is ``{'codec': {'type': 'bf16'}}``."""
    nested = Config()
    nested.merge_from_dict(options)
    return nested.to_dict()


def _stages_before(cfg: Config, work_dir: str) -> list[str] | None:
    file = osp.join(work_dir, osp.basename(cfg.filename or ''))
    return (stages_of(Config.fromfile(file)) or None) if osp.isfile(file) else None
