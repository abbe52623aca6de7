"""For how long the operations of a process group wait."""

from __future__ import annotations

from datetime import timedelta

import torch
import torch.distributed as dist

__all__ = ['group_timeout']


def group_timeout() -> timedelta:
    """How long an operation of the default process group waits for the other workers.

    ``new_group`` does not take it over: without an argument a further group gets torch's own default.
    """
    device = torch.device('cuda' if 'nccl' in dist.get_backend() else 'cpu')
    return dist.distributed_c10d._get_default_group()._get_backend(device).options._timeout
