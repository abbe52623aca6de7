"""What the default process group is like."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ['backend_for', 'group_timeout']


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
