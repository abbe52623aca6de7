"""Makes mmengine read checkpoints by :func:`read_checkpoint`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pickle import UnpicklingError
from typing import Any

import torch
from mmengine.runner.checkpoint import CheckpointLoader

from .allowed import allowed_globals
from .reading import read_checkpoint, untrusted

__all__ = ['load_safely', 'read_from_anywhere', 'trusts', 'verify_local_files']

FORCE_SAFE = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'  # read by torch.load

_state: dict[str, bool] = {}


def load_safely(trust: bool = False) -> None:
    """Let this process run no code from checkpoints, from wherever they come, and verify local ones.

    mmengine by itself falls back to running such code, with a warning. What is downloaded is read by torch, which
    is told here to refuse it.

    Args:
        trust (bool): Whether checkpoints may run code (``--trust-checkpoint``). They are verified all the same.
    """
    if trust:
        os.environ.pop(FORCE_SAFE, None)
    else:
        os.environ[FORCE_SAFE] = '1'
    _state['trust'] = trust
    verify_local_files()
    for prefix, loader in list(CheckpointLoader._schemes.items()):
        if prefix and not hasattr(loader, '__wrapped__'):
            CheckpointLoader.register_scheme(prefix, _refusing(loader), force=True)


def verify_local_files() -> None:
    """Let mmengine's loader read local files by :func:`read_checkpoint`."""

    def load_from_local(filename: str, map_location: Any = None) -> Any:
        return read_checkpoint(filename, map_location, trusts())

    CheckpointLoader.register_scheme(prefixes='', loader=load_from_local, force=True)


def read_from_anywhere(filename: str, trust: bool = False) -> Any:
    """Read a checkpoint to the CPU, from a local file or a URL; nothing else in this process changes.

    Args:
        filename (str): A file, or what mmengine knows how to download.
        trust (bool): Whether it may run code. Defaults to False.

    Returns:
        Any: What it holds; usually a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        CheckpointError: If it is damaged, or would run code.
    """
    if '://' not in filename:
        return read_checkpoint(filename, 'cpu', trust)
    loader = CheckpointLoader._get_checkpoint_loader(filename)
    if trust:
        return loader(filename, map_location='cpu')
    with _code_refused():
        return _refusing(loader)(filename, map_location='cpu')


@contextmanager
def _code_refused() -> Iterator[None]:
    before = os.environ.get(FORCE_SAFE)
    os.environ[FORCE_SAFE] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCE_SAFE]
        else:
            os.environ[FORCE_SAFE] = before


def _refusing(loader: Callable) -> Callable:
    """A loader of downloads that says what to do about one that torch refuses."""

    @wraps(loader)
    def refusing(filename: str, map_location: Any = None) -> Any:
        try:
            with torch.serialization.safe_globals(allowed_globals()):
                return loader(filename, map_location)
        except UnpicklingError as error:
            raise untrusted(filename, error) from None

    return refusing


def trusts() -> bool:
    """Whether checkpoints are trusted in this process."""
    return _state.get('trust', False)
