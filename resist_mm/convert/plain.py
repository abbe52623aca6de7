"""A trained model for use without this package: the scale folded into the weights, the config a plain one."""

from __future__ import annotations

import argparse
import copy
import os
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner.checkpoint import CheckpointLoader, load_state_dict

from resist_mm.models.fold import fold_scale
from resist_mm.models.partition import partitioned_stages

__all__ = ['fold_checkpoint', 'main', 'plain_config']

SCOPE = 'resist_mm.'
# what only a run that goes on needs
LEFT_OUT = ('optimizer', 'param_schedulers', 'message_hub', 'ema_state_dict', 'teacher_state_dict')


def plain_config(cfg: Config) -> Config:
    """Take out of a config what this package put in: partition, hooks, wrapper, imports.

    What is this package's own, such as ``resist_mm.YOLOV2``, stays, and its import with it.

    Args:
        cfg (Config): The config of a run; it is not changed.

    Returns:
        Config: Of the same model without a partition.
    """
    plain = Config(_plain(cfg.to_dict()))
    plain['custom_hooks'] = [
        hook for hook in plain.get('custom_hooks') or [] if not str(hook.get('type', '')).startswith(SCOPE)
    ]
    plain.pop('model_wrapper_cfg', None)
    imports = plain.get('custom_imports') or {}
    if SCOPE not in str(plain.get('model')) and 'resist_mm' in imports.get('imports', []):
        imports['imports'] = [name for name in imports['imports'] if name != 'resist_mm']
        if not imports['imports']:
            plain.pop('custom_imports')
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_plain(item) for item in value)
    if not isinstance(value, dict):
        return value
    kind = str(value.get('type', ''))
    if kind == f'{SCOPE}Partitioned':
        inner = value['model']
        if isinstance(inner, dict):
            return _plain(inner)
        beside = {key: item for key, item in value.items() if key not in ('model', 'stages')}
        return _plain({**beside, 'type': inner})
    plain = {key: _plain(item) for key, item in value.items()}
    if kind == f'{SCOPE}PartitionableResNet':
        plain['type'] = 'mmdet.ResNet'
    if kind in (f'{SCOPE}PartitionableResNet', f'{SCOPE}PreActResNet'):
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
    if cfg is None:
        text = checkpoint.get('meta', {}).get('cfg')
        if not text:
            raise ValueError('the checkpoint says nothing of its config: name it with --config')
        cfg = Config.fromstring(text, '.py')
    __import__('resist_mm')
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmengine')):
        model = MODELS.build(copy.deepcopy(cfg.model))  # some detectors write into their config
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
    folded['meta'] = {**checkpoint.get('meta', {}), 'cfg': plain_config(cfg).pretty_text}
    return folded


def main(arguments: list[str] | None = None) -> None:
    """The command ``fold_scale.py``."""
    parser = argparse.ArgumentParser(
        description='Fold the activation scale into the weights of a checkpoint, so that it loads into the plain '
        'model of mmdet, strictly and without resist_mm'
    )
    parser.add_argument('source', metavar='IN', help='checkpoint of a run in rounds')
    parser.add_argument(
        'target', metavar='OUT', help='file to write; the config of the plain model goes beside it, .py'
    )
    parser.add_argument('--config', help='config of the run; default: the one in the checkpoint')
    args = parser.parse_args(arguments)
    if not Path(args.source).is_file():
        parser.error(f'there is no checkpoint {args.source}')
    target = Path(args.target)
    if target.exists() and target.samefile(args.source):
        parser.error('IN and OUT are the same file')
    try:
        checkpoint = CheckpointLoader.load_checkpoint(args.source, map_location='cpu')
        folded = fold_checkpoint(checkpoint, None if args.config is None else Config.fromfile(args.config))
    except ValueError as error:
        parser.exit(1, f'{args.source}: {error}\n')
    target.parent.mkdir(parents=True, exist_ok=True)
    written = target.with_name(f'{target.name}.part')
    torch.save(folded, written)
    os.replace(written, target)
    config = target.with_suffix('.py')
    config.write_text(folded['meta']['cfg'])
    needed = SCOPE in folded['meta']['cfg']
    print(f'{target} and {config}: ' + ('the model is one of resist_mm' if needed else 'resist_mm is not needed'))
