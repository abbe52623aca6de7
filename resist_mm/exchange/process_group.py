"""What the default process group is like."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ['backend_for', 'check_group_size', 'group_timeout']


def group_timeout() -> timedelta:
    """How long an operation of the default process group waits for the other workers.

    ``new_group`` does not take it over: without an argument a further group gets torch's own default.
    """
    device = torch.device('cuda' if 'nccl' in dist.get_backend() else 'cpu')
    return dist.distributed_c10d._get_default_group()._get_backend(device).options._timeout


def backend_for(device: torch.device) -> str:
    """The backend of the default process group for a device; a group may have several, as 'cpu:gloo,cuda:nccl'."""
    config = dist.get_backend_config()
    backends = dict(pair.split(':') for pair in config.split(','))
    if device.type not in backends:
        raise ValueError(
            f'the process group has no backend for {device.type}, where the model is, but {config!r}: choose '
            'one in init_process_group (env_cfg.dist_cfg.backend in a config)'
        )
    return backends[device.type]


def check_group_size(num_workers: int) -> None:
    """Refuse to go on in a group that is not the one of an engine any more.

    Args:
        num_workers (int): How many workers the engine has.

    Raises:
        RuntimeError: If there are others now.
    """
    now = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if now != num_workers:
        raise RuntimeError(
            f'this engine has {num_workers} workers, but there are {now} now, since another engine has lost some: '
            'make a new engine for those that are left'
        )
