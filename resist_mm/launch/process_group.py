"""Starting and leaving the process group."""

from __future__ import annotations

import os
from math import inf
from unittest.mock import patch

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

__all__ = ['DEFAULT_TIMEOUT_SEC', 'check_timeout', 'finish_distributed', 'init_distributed']

DEFAULT_TIMEOUT_SEC = 600


def init_distributed(cfg: Config) -> None:
    """Initialise the process group if there are fewer GPUs than workers.

    mmengine's launchers assign GPU i of a machine to its worker i and fail if there is
    none. Here the workers of a machine without a GPU train on the CPU, over gloo.
    With ``share_gpu = True`` in the config several workers share a GPU, also over gloo,
    because NCCL does not allow it. With a GPU for each worker the Runner initialises the
    process group. Either way the timeout is that of :func:`check_timeout`.

    Args:
        cfg (Config): The run's config, with ``launcher``, ``share_gpu`` and ``env_cfg``. The timeout is put into
            it.

    Raises:
        ValueError: If there are fewer GPUs than workers on this machine and
            ``share_gpu`` is not set, or if the timeout is not a number of seconds.
    """
    launcher = cfg.get('launcher', 'none')
    timeout = check_timeout(cfg)
    if launcher == 'none':
        return
    cfg.merge_from_dict({'env_cfg.dist_cfg.timeout': timeout})
    num_gpus, num_workers = torch.cuda.device_count(), _workers_on_this_machine()
    if num_gpus >= num_workers:
        return
    if num_gpus and not cfg.get('share_gpu', False):
        raise ValueError(
            f'{num_workers} workers were started on this machine, which has {num_gpus} GPU(s). Start at most '
            f'{num_gpus}, or let workers share a GPU: share_gpu = True in the config, or '
            '--cfg-options share_gpu=True'
        )

    def set_device(local_rank: int) -> None:
        if num_gpus:
            real_set_device(local_rank % num_gpus)

    env_cfg = cfg.get('env_cfg', {})
    set_multi_processing(**env_cfg.get('mp_cfg', {}), distributed=True)
    dist_cfg = {**env_cfg.get('dist_cfg', {}), 'backend': 'gloo'}
    real_set_device = torch.cuda.set_device
    with patch('torch.cuda.set_device', set_device):
        init_dist(launcher, **dist_cfg)


def check_timeout(cfg: Config) -> float:
    """Check for how long a worker waits for the others, ``env_cfg.dist_cfg.timeout``.

    A worker may be late because its round takes longer, or because it writes a checkpoint.

    Args:
        cfg (Config): The run's config.

    Returns:
        float: Seconds; 600 if the config says nothing.

    Raises:
        ValueError: If it is not a positive number of seconds.
    """
    timeout = (cfg.get('env_cfg', {}).get('dist_cfg') or {}).get('timeout', DEFAULT_TIMEOUT_SEC)
    is_number = isinstance(timeout, int | float) and not isinstance(timeout, bool)
    if not is_number or not 0 < timeout < inf:
        raise ValueError(
            'env_cfg.dist_cfg.timeout must be a positive number of seconds, longer than any worker waits for the '
            f'slowest one, also while a checkpoint is saved; got {timeout!r}. The default is {DEFAULT_TIMEOUT_SEC}'
        )
    return timeout


def finish_distributed() -> None:
    """Wait for all workers, so that worker 0 has written its last file, then leave the process group.

    A worker that simply exits takes the threads of its process group down with it, and
    the launcher then kills the others, possibly in the middle of saving a checkpoint.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _workers_on_this_machine() -> int:
    for name in ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE'):
        if name in os.environ:
            return int(os.environ[name])
    return 1
