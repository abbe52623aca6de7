"""Config files by path, or by package as in ``_base_``: ``mmdet::retinanet/retinanet_r101_fpn_1x_coco.py``."""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from glob import glob
from inspect import signature
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import get_installed_path, is_installed

from resist_mm.registry import SCOPE

from .references import resolve_references

__all__ = ['change_config', 'read_config']

# what the Runner or a command reads from the top level of a config; all else is a variable
READ = {*signature(Runner.__init__).parameters, 'auto_scale_lr', 'model_wrapper_cfg', 'share_gpu', 'tta_model'}


def read_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config file, change it as the command line says, and put in the values that it refers to.

    Args:
        path (str or Path): A file; or ``PACKAGE::FILE``, one that an installed OpenMMLab package brings along.
        options (dict, optional): Of ``--cfg-options``: ``{'train_cfg.max_epochs': 3}``. Defaults to None.

    Returns:
        Config: Without references (see :func:`.resolve_references`).

    Raises:
        FileNotFoundError: If there is no such file, similar ones are named; or none that it inherits from.
        ValueError: If the package is not installed, the config cannot be read, or an option or a reference names
            what it does not have.
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
    for key, value in (options or {}).items():
        copies = _copies_of_variable(cfg, key)
        if copies and value != cfg.get(key):
            raise ValueError(
                f'--cfg-options: {key} is a variable that the config has already used: setting it would '
                f'change nothing. Set {", ".join(copies)}, or {key} in its file'
            )
    try:
        cfg.merge_from_dict(options or {})
    except (KeyError, TypeError) as error:
        message = f'--cfg-options: {str(error.args[0]).rstrip(".")}'
        if any(key.startswith('custom_hooks') for key in options or {}):
            message += '. Options of a hook that --resist or --local-sgd adds go behind these'
        raise ValueError(message) from error


def _copies_of_variable(cfg: Config, key: str) -> list[str]:
    """Where the value of a variable is that nothing reads any more; none if it is no such variable."""
    root = cfg._cfg_dict
    wanted = dict.get(root, key)
    if key in READ or wanted is None or isinstance(wanted, bool):
        return []
    read = {name: value for name, value in dict.items(root) if name in READ}
    if any(f'${{{key}}}' in text or f'${{len({key})}}' in text for text in _texts(read)):
        return []
    return list(_places(read, wanted))


def _places(value: Any, wanted: Any, place: str = '') -> Iterator[str]:
    if type(value) is type(wanted) and value == wanted:
        yield place
    else:
        for name, inner in _parts(value):
            yield from _places(inner, wanted, f'{place}.{name}' if place else str(name))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for _, inner in _parts(value):
        yield from _texts(inner)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return dict.items(value)
    return enumerate(value) if isinstance(value, list | tuple) else ()


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
