"""Config files by path, or by package as in ``_base_``: ``mmdet::retinanet/retinanet_r101_fpn_1x_coco.py``."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from difflib import get_close_matches
from glob import glob
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.utils import get_installed_path, is_installed

from resist_mm.registry import SCOPE

from .references import references_in, resolve_references

__all__ = ['change_config', 'read_config']

SHOWN = 4
# what mmengine and the commands read from the top level of a config; all else is a variable
READ = frozenset(
    (
        'model',
        'work_dir',
        'train_dataloader',
        'val_dataloader',
        'test_dataloader',
        'train_cfg',
        'val_cfg',
        'test_cfg',
        'auto_scale_lr',
        'optim_wrapper',
        'param_scheduler',
        'val_evaluator',
        'test_evaluator',
        'default_hooks',
        'custom_hooks',
        'data_preprocessor',
        'load_from',
        'resume',
        'launcher',
        'env_cfg',
        'log_processor',
        'log_level',
        'visualizer',
        'default_scope',
        'randomness',
        'experiment_name',
        'runner_type',
        'strategy',
        'model_wrapper_cfg',
        'sync_bn',
        'find_unused_parameters',
        'compile',
        'activation_checkpointing',
        'efficient_conv_bn_eval',
        'cfg',
        'custom_imports',
        'share_gpu',
        'tta_model',
        'tta_pipeline',
    )
)


def read_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, change it as the command line says, and put in the values that it refers to.

    Args:
        path (str or Path): A file; or ``PACKAGE::FILE``, one that an installed OpenMMLab package brings along.
        options (dict, optional): Of ``--cfg-options``: ``{'train_cfg.max_epochs': 3}``. Defaults to None.

    Returns:
        Config: Without references (see :func:`.resolve_references`).

    Raises:
        FileNotFoundError: If there is no such file, similar ones are named; or none that it inherits from.
        ValueError: If the package is not installed, the config cannot be read, an option or a reference names what
            it does not have, or an option sets a variable that the config has already used.
    """
    cfg = _read(path)
    _leave_scope(cfg._cfg_dict)
    change_config(cfg, options)
    try:
        resolve_references(cfg)
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from None
    return cfg


def change_config(cfg: Config, options: dict[str, Any] | None) -> None:
    """Change a config by ``--cfg-options``, in place.

    Raises:
        ValueError: If an item is named that a list does not have, or a part of something that has none; or a
            variable of which only copies are used.
    """
    for key in options or {}:
        copies = [place for place in _copies_of_variable(cfg, key) if place not in (options or {})]
        if copies:
            more = f' and {len(copies) - SHOWN} more' if len(copies) > SHOWN else ''
            raise ValueError(
                f'--cfg-options: {key.partition(".")[0]} is a variable that the config has already used: setting '
                f'{key} would change nothing. Set {", ".join(copies[:SHOWN])}{more} instead, or it in its file'
            )
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        message = f'--cfg-options: {str(error.args[0]).rstrip(".")}'
        if any(key.startswith('custom_hooks') for key in options or {}):
            message += '. Options of a hook that --resist or --local-sgd adds go behind these'
        raise ValueError(message) from error


def _copies_of_variable(cfg: Config, key: str) -> list[str]:
    """Where the value of a variable is that nothing reads any more; none if ``key`` is not in such a variable.

    Only of values that are hardly equal by chance: lists, tuples, dicts and paths. A value that the config has
    computed something from, or a number, is not found.
    """
    root = cfg._cfg_dict
    name = key.partition('.')[0]
    wanted = dict.get(root, name)
    telling = isinstance(wanted, list | tuple | dict) or (isinstance(wanted, str) and '/' in wanted)
    if name in READ or not telling or not wanted or name in references_in(root):
        return []
    return list(_places({part: value for part, value in dict.items(root) if part in READ}, wanted))


def _places(value: Any, wanted: Any, place: str = '') -> Iterator[str]:
    if type(value) is type(wanted) and value == wanted:
        yield place
    elif isinstance(value, dict | list | tuple):
        for name, inner in dict.items(value) if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, wanted, f'{place}.{name}' if place else str(name))


def _leave_scope(value: Any) -> None:
    """Let what is inherited from ``resist_mm::`` be built as if the file were inherited by its path.

    mmengine would look every type up in this package alone. The configs here write their own types with the
    package in front, and leave the others to the config's default scope.
    """
    if isinstance(value, dict):
        if dict.get(value, '_scope_') == SCOPE:
            del value['_scope_']
        for inner in dict.values(value):  # dict's own: those of ConfigDict import what a lazy config names
            _leave_scope(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _leave_scope(inner)


def _read(path: str | Path) -> Config:
    path = str(path)
    if '::' in path:
        path = _file_of_package(path)
    elif not osp.isfile(path):
        raise FileNotFoundError(f'there is no config file {path}')
    try:
        return Config.fromfile(path)
    except Exception as error:  # a config is Python, which can fail in any way
        kind = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind(f'{path} cannot be read: {_reason(error)}') from error


def _reason(error: Exception) -> str:
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error)
    text = text.partition(', the current sys.path')[0].strip().partition('\n')[0]
    speaks_for_itself = isinstance(error, ImportError | OSError | SyntaxError | ValueError) and text
    return text if speaks_for_itself else f'{type(error).__name__}: {text}'


def _file_of_package(path: str) -> str:
    package, _, name = path.partition('::')
    if not is_installed(package):
        raise ValueError(f'{path} names a config of the package {package!r}, which is not installed')
    folder = osp.join(get_installed_path(package), '.mim', 'configs')
    name = name if name.endswith('.py') else f'{name}.py'
    if osp.isfile(osp.join(folder, name)):
        return osp.join(folder, name)
    known = [osp.relpath(file, folder) for file in glob(osp.join(folder, '**', '*.py'), recursive=True)]
    near = [f'{package}::{file}' for file in get_close_matches(name, known, n=3)]
    raise FileNotFoundError(f'{package} has no config {name!r}' + (f'; the nearest are {near}' if near else ''))
