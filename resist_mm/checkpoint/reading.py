"""Reading a checkpoint: is it whole, is it safe, is the model the one that was saved?"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from .allowed import allowed_globals
from .digest import DIGEST_KEY, model_digest

__all__ = ['BrokenCheckpoint', 'CheckpointError', 'UntrustedCheckpoint', 'read_checkpoint']

ARCHIVE = b'PK\x03\x04'  # how a file of torch.save begins, since torch 1.6
NOT_ALLOWED = ('GLOBAL', 'allowlisted', 'unrecognized function', 'Unsupported class')


class CheckpointError(RuntimeError):
    """A checkpoint that must not be used."""


class BrokenCheckpoint(CheckpointError):
    """The file is damaged or incomplete."""


class UntrustedCheckpoint(CheckpointError):
    """Reading the file would run code that it names."""


def read_checkpoint(path: str | Path, map_location: Any = None, trust: bool = False) -> Any:
    """Read a checkpoint from a local file, and verify it.

    The checksum of every record of the file is compared, and the digest of the model if it has one; files of other
    programs do not. The older format of torch has no checksums.

    Args:
        path (str or Path): The file.
        map_location (Any): As in ``torch.load``.
        trust (bool): Whether the file may name any class or function, which lets it run any code.

    Returns:
        Any: What the file holds; usually a dict.

    Raises:
        FileNotFoundError: If there is no such file.
        BrokenCheckpoint: If the file is damaged or incomplete.
        UntrustedCheckpoint: If it needs more than tensors, plain values and what mmengine stores, and ``trust`` is
            not set.
    """
    path = os.path.expanduser(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f'there is no checkpoint {path}')
    archive = _check_archive(path)
    try:
        with torch.serialization.safe_globals([] if trust else allowed_globals()):
            checkpoint = torch.load(path, map_location=map_location, weights_only=not trust)
    except (MemoryError, torch.cuda.OutOfMemoryError):
        raise
    except Exception as error:
        unsafe = isinstance(error, UnpicklingError | ValueError) and (
            archive or any(word in str(error) for word in NOT_ALLOWED)
        )
        if not trust and unsafe:
            raise untrusted(path, error) from None
        raise BrokenCheckpoint(f'{path} cannot be read: {_reason(error)}') from error
    _check_digest(path, checkpoint)
    return checkpoint


def untrusted(path: str, error: Exception) -> UntrustedCheckpoint:
    """The error for a checkpoint that torch refuses to read without running code."""
    return UntrustedCheckpoint(
        f'{path} can run code when it is read, and has not been read: {_reason(error)}. If you know where it '
        'comes from and trust it, repeat the command with --trust-checkpoint (in Python: '
        'resist_mm.checkpoint.load_safely(trust=True))'
    )


def _check_archive(path: str) -> bool:
    """Check the checksums of an archive; whether the file is one."""
    with open(path, 'rb') as file:
        begins_as_archive = file.read(len(ARCHIVE)) == ARCHIVE
    if not begins_as_archive and not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises many kinds for damaged headers
        raise BrokenCheckpoint(f'{path} is incomplete or damaged: {error}') from error
    if damaged is None and not begins_as_archive:
        damaged = 'its first bytes'
    if damaged is not None:
        raise BrokenCheckpoint(f'{path} is damaged: the checksum of {damaged} is wrong')
    return True


def _check_digest(path: str, checkpoint: Any) -> None:
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    saved = meta.get(DIGEST_KEY) if isinstance(meta, dict) else None
    if saved is not None and saved != model_digest(checkpoint):
        raise BrokenCheckpoint(
            f'{path} is damaged: its model is not the one that was saved, by its digest. If you have changed it, '
            f"remove '{DIGEST_KEY}' from its meta"
        )


def _reason(error: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    text = str(error)
    _, _, inner = text.partition('WeightsUnpickler error: ')
    return (inner or text).strip().split('\n')[0].split('. Please use')[0].rstrip('.')
