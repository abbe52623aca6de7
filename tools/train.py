"""Train a model: ``python tools/train.py CONFIG``, or one of the launchers beside this file."""

from __future__ import annotations

import argparse
import os
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))

from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from resist_mm.checkpoint import CheckpointError, WorkDirInUse, load_safely
from resist_mm.config_values import check_has_model, check_values
from resist_mm.convert import Converted, Options, add_arguments, convert_as_asked, read_config
from resist_mm.datasets.annotations import DataError, empty_sets_explained
from resist_mm.datasets.checks import check_data_sets
from resist_mm.hooks import CannotResume, DataCheckHook, ExactResumeHook, begin_run
from resist_mm.launch import (
    begin_worker,
    check_wrapper,
    continue_if_asked,
    end_with,
    finish_distributed,
    init_distributed,
    quiet_libraries,
    record_failures,
    resumes_by_itself,
    scale_lr_by_one_worker,
)
from resist_mm.rounds.whereabouts import missing_workers_named


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Train a model')
    parser.add_argument('config', help="config file; mmdet::FILE for one of mmdet's")
    add_arguments(parser)
    parser.add_argument('--work-dir', help='folder of logs and checkpoints; default: work_dirs/CONFIG')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate with the batch of all workers; of one worker where they train in rounds',
    )
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint; without a path, from the newest one in the work dir that is whole',
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that can run code, from wherever they come',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=Options,
        help='change the config: KEY=VALUE ..., such as custom_hooks.0.local_iters=20 or key="[a,b]"; options of '
        'the hook that --resist or --local-sgd adds go behind these: --resist local_iters=20',
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes --local-rank; torchrun sets LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def load_config(args: argparse.Namespace) -> Converted:
    """Read the config file and apply the command line to it; returns what a conversion has changed, too."""
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(cfg.filename))[0])
    check_has_model(cfg)
    resume_from = None if args.resume == 'auto' else args.resume
    if resume_from is not None and '://' not in resume_from and not osp.isfile(resume_from):
        raise FileNotFoundError(f'there is no checkpoint {resume_from} to resume from')
    cfg, changes = convert_as_asked(cfg, args, cfg.work_dir)
    if args.amp:
        cfg.optim_wrapper.type = 'AmpOptimWrapper'
        cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')
    if args.auto_scale_lr:
        if 'base_batch_size' not in (cfg.get('auto_scale_lr') or {}):
            raise ValueError(
                f'--auto-scale-lr needs auto_scale_lr = dict(base_batch_size=...) in {args.config}, which has none'
            )
        cfg.auto_scale_lr.enable = True
    if args.resume is not None:
        cfg.resume = True
        cfg.load_from = resume_from
    return Converted(cfg, changes)


@record_failures
def main() -> None:
    """Train."""
    begin_worker()
    quiet_libraries()
    args = parse_args()
    load_safely(args.trust_checkpoint)
    try:
        cfg, changes = load_config(args)
        check_values(cfg)
        dataloaders = ['train_dataloader'] + ['val_dataloader'] * (cfg.get('val_cfg') is not None)
        check_data_sets(cfg, dataloaders)
        check_wrapper(cfg)
        continue_if_asked(cfg)
        init_distributed(cfg)
    except (CheckpointError, FileNotFoundError, ValueError) as error:
        end_with(error)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    for change in changes:
        runner.logger.info(f'Changed config: {change}')
    scale_lr_by_one_worker(runner)
    runner.register_hook(DataCheckHook())
    if not any(isinstance(hook, ExactResumeHook) for hook in runner.hooks):
        runner.register_hook(ExactResumeHook())
    try:
        with missing_workers_named():
            begin_run(runner, restarted=resumes_by_itself())
            with empty_sets_explained():
                runner.train()
            finish_distributed()
    except (CannotResume, CheckpointError, DataError, WorkDirInUse) as error:
        end_with(error)


if __name__ == '__main__':
    main()
