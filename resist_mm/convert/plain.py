"""A trained model for use without this package: the scale folded into the weights, the config a plain one."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

from resist_mm.checkpoint import CheckpointError, add_digest, load_safely, write_checkpoint, write_text
from resist_mm.models.fold import fold_scale
from resist_mm.models.partition import partitioned_stages

from ..config_hooks import custom_hooks, type_name
from .build import build_to_look_at
from .read import read_config

__all__ = ['fold_checkpoint', 'main', 'plain_config']

PACKAGE = 'resist_mm'
SCOPE = f'{PACKAGE}.'
# what only a run that goes on needs
LEFT_OUT = ('optimizer', 'param_schedulers', 'message_hub', 'ema_state_dict', 'teacher_state_dict')


def plain_config(cfg: Config) -> Config:
    """Take out of a config what this package put in: partition, hooks, wrapper, imports.

    What is this package's own, such as ``resist_mm.YOLOV2``, stays, wherever it is, and the import with it.

    Args:
        cfg (Config): The config of a run; it is not changed.

    Returns:
        Config: Of the same model without a partition.
    """
    plain = Config(_plain(cfg.to_dict()))
    if 'custom_hooks' in plain:
        plain['custom_hooks'] = [hook for hook in custom_hooks(plain) if not _own_type(hook.get('type'))]
    plain.pop('model_wrapper_cfg', None)
    imports = plain.get('custom_imports') or {}
    names = imports.get('imports') or []
    names = [names] if isinstance(names, str) else list(names)
    others = [name for name in names if name != PACKAGE and not name.startswith(SCOPE)]
    if others != names and not needed_types(plain):
        if others:
            imports['imports'] = others
        else:
            plain.pop('custom_imports')
    return plain


def needed_types(cfg: Config) -> list[str]:
    """What of this package a config names, such as ``resist_mm.YOLOV2``, its import aside."""
    settings = {key: value for key, value in cfg.to_dict().items() if key != 'custom_imports'}
    return sorted(set(_own_names(settings)))


def _own_names(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value.startswith(SCOPE):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _own_names(inner)


def _own_type(kind: Any) -> str | None:
    """The name of a type of this package; None: it is another one's."""
    return type_name(kind) if isinstance(kind, str) and kind.startswith(SCOPE) else None


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = _own_type(value.get('type'))
    if kind == 'Partitioned':
        inner = value['model']
        if isinstance(inner, dict):
            return _plain(inner)
        beside = {key: item for key, item in value.items() if key not in ('model', 'stages')}
        return _plain({**beside, 'type': inner})
    plain = {key: _plain(item) for key, item in value.items()}
    if kind == 'PartitionableResNet':
        plain['type'] = 'mmdet.ResNet'
    if kind == 'SafeCheckpointHook':
        plain['type'] = 'CheckpointHook'
        plain.pop('background', None)
    if kind in ('PartitionableResNet', 'PreActResNet'):
        for key in ('partition_stages', 'partition_first'):
            plain.pop(key, None)
    return plain


def fold_checkpoint(checkpoint: dict[str, Any], cfg: Config | None = None) -> dict[str, Any]:
    """Fold the activation scale of a checkpoint into its weights.

    Args:
        checkpoint (dict): As mmengine saves it. It is not changed.
        cfg (Config, optional): Of the run. Defaults to None: the one that is in the checkpoint.

    Returns:
        dict: A checkpoint with the weights, and in ``meta`` the config of the plain model; without optimizer.

    Raises:
        ValueError: If there is no config, the weights are not the model's, or the scale cannot be folded exactly.
    """
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        raise ValueError('it is no checkpoint as mmengine saves it: a dict with state_dict and meta')
    meta = checkpoint.get('meta') or {}
    if cfg is None:
        if not meta.get('cfg'):
            raise ValueError('the checkpoint says nothing of its config: name it with --config')
        cfg = _config_of(meta['cfg'])
    __import__(PACKAGE)
    model = build_to_look_at(cfg, 'cpu')
    if not partitioned_stages(model):
        raise ValueError('the model of this config has no partitioned stage, and so no scale to fold')
    state = {key: value.clone() for key, value in checkpoint['state_dict'].items()}
    try:
        load_state_dict(model, state, strict=True)
    except RuntimeError as error:
        raise ValueError(f'the weights of the checkpoint are not those of the config: {error}') from None
    scales = {f'{name}.scale' for name in partitioned_stages(model)}
    fold_scale(model)
    folded = {key: value for key, value in checkpoint.items() if key not in LEFT_OUT}
    folded['state_dict'] = {key: value for key, value in model.state_dict().items() if key not in scales}
    folded['meta'] = {**meta, 'cfg': plain_config(cfg).pretty_text}
    add_digest(folded)
    return folded


def _config_of(text: str) -> Config:
    try:
        return Config.fromstring(text, '.py')
    except Exception as error:  # a config is Python, which can fail in any way
        raise ValueError(
            f'the config in the checkpoint cannot be read: {error}. Name one with --config'
        ) from error


def main(arguments: list[str] | None = None) -> None:
    """The command ``fold_scale.py``."""
    parser = argparse.ArgumentParser(
        description='Fold the activation scale into the weights of a checkpoint, so that it loads into the plain '
        'model of mmdet, strictly and without resist_mm'
    )
    parser.add_argument('source', metavar='IN', help='checkpoint of a run in rounds')
    parser.add_argument(
        'target', metavar='OUT', help='checkpoint to write, OUT.pth; the config of the plain model goes to OUT.py'
    )
    parser.add_argument('--config', help='config of the run, or PACKAGE::FILE; default: the one in the checkpoint')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='read the checkpoint even if it can run code'
    )
    args = parser.parse_args(arguments)
    load_safely(args.trust_checkpoint)
    if not Path(args.source).is_file():
        parser.error(f'there is no checkpoint {args.source}')
    target = Path(args.target)
    config = _config_beside(parser, target, Path(args.source))
    try:
        cfg = None if args.config is None else read_config(args.config)
        folded = fold_checkpoint(CheckpointLoader.load_checkpoint(args.source, map_location='cpu'), cfg)
        write_checkpoint(folded, target)
        write_text(folded['meta']['cfg'], config)
    except (CheckpointError, OSError) as error:
        parser.exit(1, f'{error}\n')
    except ValueError as error:
        parser.exit(1, f'{args.source}: {error}\n')
    needed = needed_types(Config.fromfile(config))
    print(
        f'{target} and {config}: resist_mm is ' + (f'needed for {", ".join(needed)}' if needed else 'not needed')
    )


def _config_beside(parser: argparse.ArgumentParser, target: Path, source: Path) -> Path:
    """The file for the plain config; it must not be that of a run."""
    if target.exists() and target.samefile(source):
        parser.error('IN and OUT are the same file')
    if target.suffix == '.py':
        parser.error(f'OUT is the checkpoint to write, such as {target.with_suffix(".pth")}, got {target}')
    config = target.with_suffix('.py')
    if config.exists():
        parser.error(f'the config would be written to {config}, which is there already: choose another OUT')
    return config
