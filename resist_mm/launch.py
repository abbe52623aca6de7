"""What the commands add to mmengine's Runner: the process group, errors, the scale of the learning rate."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any, NoReturn
from unittest.mock import patch

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.utils.dl_utils import set_multi_processing

from .config_hooks import ROUND_HOOKS, custom_hooks, hook_name, is_round_hook

if TYPE_CHECKING:
    from mmengine.runner import Runner

__all__ = ['check_wrapper', 'end_with', 'finish_distributed', 'init_distributed', 'scale_lr_by_one_worker']

OTHERS_WAIT_SEC = 20


def init_distributed(cfg: Config) -> None:
    """Initialise the process group if there are fewer GPUs than workers.

    mmengine's launchers assign GPU i of a machine to its worker i and fail if there is
    none. Here the workers of a machine without a GPU train on the CPU, over gloo.
    With ``share_gpu = True`` in the config several workers share a GPU, also over gloo,
    because NCCL does not allow it. With a GPU for each worker nothing is done: the
    Runner initialises the process group.

    Args:
        cfg (Config): The run's config, with ``launcher``, ``share_gpu`` and ``env_cfg``.

    Raises:
        ValueError: If there are fewer GPUs than workers on this machine and
            ``share_gpu`` is not set.
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


def finish_distributed() -> None:
    """Wait for all workers, so that worker 0 has written its last file, then leave the process group.

    A worker that simply exits takes the threads of its process group down with it, and
    the launcher then kills the others, possibly in the middle of saving a checkpoint.
    """
    if dist.is_available() and dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def end_with(error: Exception) -> NoReturn:
    """Exit with an error that the user can fix, printed once per machine and without a traceback.

    For errors that occur on all workers of a machine. All but the first worker wait, so
    that the launcher does not kill the first one before it has printed the error.
    """
    if _rank_on_this_machine() != 0:
        time.sleep(OTHERS_WAIT_SEC)
        sys.exit(1)
    sys.exit(f'{type(error).__name__}: {error}')


def check_wrapper(cfg: Config) -> None:
    """Check that a config with one of this package's hooks has a model wrapper.

    Without one mmengine wraps the model for data-parallel training, which fails on a
    CPU before any hook can explain why.

    Raises:
        ValueError: If the wrapper is missing, or ``custom_hooks`` is no list.
    """
    protocols = [hook_name(hook) for hook in custom_hooks(cfg) if is_round_hook(hook)]
    if protocols and cfg.get('launcher', 'none') != 'none' and not cfg.get('model_wrapper_cfg'):
        raise ValueError(
            f'custom_hooks has {protocols[0]}, but model_wrapper_cfg is missing, and the default exchanges '
            "gradients in each iteration. Put model_wrapper_cfg = dict(type='resist_mm.LocalModel') in the config"
        )


def scale_lr_by_one_worker(runner: Runner) -> None:
    """Let ``auto_scale_lr`` of a run in rounds count the batch of one worker; to be called before training.

    mmengine multiplies the learning rate by the batch of all workers, as their gradients are averaged, over
    ``base_batch_size``. In rounds every worker takes steps of its own, of its own batch, and what is averaged is
    parameters: the rate belongs to the batch of one worker. Without a hook of rounds nothing changes.

    Args:
        runner (Runner): Of the run; it tells by which factor it scales, and this tells why.
    """
    protocols = [
        type(hook).__name__
        for hook in runner.hooks
        if any(cls.__name__ in ROUND_HOOKS for cls in type(hook).__mro__)
    ]
    if not protocols:
        return
    scale_lr = runner.scale_lr

    def scale_by_one(optim_wrapper: Any, auto_scale_lr: dict | None = None) -> None:
        if auto_scale_lr is not None and auto_scale_lr.get('enable', False):
            runner.logger.info(
                f'auto_scale_lr under {protocols[0]}: workers average parameters, not gradients, so that the '
                f'learning rate is scaled by the batch of one worker, not by that of all {runner.world_size}'
            )
        with patch.object(runner, '_world_size', 1):
            scale_lr(optim_wrapper, auto_scale_lr)

    runner.scale_lr = scale_by_one


def _workers_on_this_machine() -> int:
    for name in ('LOCAL_WORLD_SIZE', 'SLURM_NTASKS_PER_NODE', 'OMPI_COMM_WORLD_LOCAL_SIZE'):
        if name in os.environ:
            return int(os.environ[name])
    return 1


def _rank_on_this_machine() -> int:
    # LOCAL_RANK comes from torchrun only if RANK is set too: the scripts also set it, for mmengine
    names = ('LOCAL_RANK',) if 'RANK' in os.environ else ('SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
