"""A digest of the bits of a saved model."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor

__all__ = ['DIGEST_KEY', 'add_digest', 'model_digest']

DIGEST_KEY = 'model_sha256'


def model_digest(checkpoint: dict[str, Any]) -> str:
    """SHA-256 over all models in a checkpoint: ``state_dict``, and ``ema_state_dict`` or the like if there is one.

    It covers the name, type, shape and bytes of every tensor. The order of the names does not matter.

    Args:
        checkpoint (dict): As mmengine saves it.

    Returns:
        str: 64 hexadecimal digits.
    """
    sha = hashlib.sha256()
    for part in sorted(key for key in checkpoint if str(key).endswith('state_dict')):
        for name, value in sorted(checkpoint[part].items()):
            if isinstance(value, Tensor):
                sha.update(f'{part}/{name} {value.dtype} {list(value.shape)}\n'.encode())
                sha.update(_bytes_of(value))
    return sha.hexdigest()


def add_digest(checkpoint: dict[str, Any]) -> None:
    """Put the digest of the model into the ``meta`` of a checkpoint; without ``meta`` there is none."""
    if isinstance(checkpoint.get('meta'), dict):
        checkpoint['meta'][DIGEST_KEY] = model_digest(checkpoint)


def _bytes_of(tensor: Tensor) -> memoryview:
    data = tensor.detach()
    if data.layout != torch.strided:
        data = data.to_dense()
    data = data.resolve_conj().resolve_neg().cpu().contiguous().reshape(-1)
    if data.is_complex():
        data = torch.view_as_real(data).reshape(-1)
    return data.view(torch.uint8).numpy().data
