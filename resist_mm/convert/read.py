"""Config files by path, or by package as in ``_base_``: ``mmdet::retinanet/retinanet_r101_fpn_1x_coco.py``."""

from __future__ import annotations

import os.path as osp
from difflib import get_close_matches
from glob import glob
from pathlib import Path

from mmengine.config import Config
from mmengine.utils import get_installed_path, is_installed

__all__ = ['read_config']


def read_config(path: str | Path) -> Config:
    """Read a config file.

    Args:
        path (str or Path): A file; or ``PACKAGE::FILE``, one that an installed OpenMMLab package brings along.

    Raises:
        FileNotFoundError: If there is no such file, similar ones are named; or none that it inherits from.
        ValueError: If the package is not installed, or the config cannot be read.
    """
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
