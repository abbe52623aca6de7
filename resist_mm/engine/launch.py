"""Starts the process group where mmengine's own launcher cannot."""

from __future__ import annotations

import os
from unittest.mock import patch

import torch
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

__all__ = ['init_distributed']


def init_distributed(cfg: Config) -> None:
    """Initialise the process group if there is not one GPU for each worker.

    mmengine's launchers give worker i of a machine GPU i and fail without it. Here
    the workers of a machine without a GPU train on its CPU, over gloo. Several
    workers share a GPU, over gloo too because NCCL refuses, where the config says
    ``share_gpu = True``. With a GPU for each worker nothing happens: the Runner
    does it.

    Args:
        cfg (Config): The run's config; of it ``launcher``, ``share_gpu`` and
            ``env_cfg``.

    Raises:
        ValueError: If there are fewer GPUs than workers on this machine and
            sharing was not asked for.
    """
    launcher = cfg.get('launcher', 'none')
    if launcher == 'none':
        return
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


def _workers_on_this_machine() -> int:
    for name in ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE'):
        if name in os.environ:
            return int(os.environ[name])
    return 1
