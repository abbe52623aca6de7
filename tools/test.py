"""Evaluate a checkpoint: ``python tools/test.py CONFIG CHECKPOINT``, or one of the launchers beside this file."""

from __future__ import annotations

import argparse
import os
import os.path as osp
import sys

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))

from mmengine.config import Config
from mmengine.evaluator import DumpResults
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from resist_mm.checkpoint import CheckpointError, load_safely
from resist_mm.config_values import check_has_model
from resist_mm.convert import Options, read_config
from resist_mm.datasets.checks import check_data_sets
from resist_mm.inference.weights import check_scales
from resist_mm.launch import (
    begin_worker,
    draw_on_all_workers,
    end_with,
    finish_distributed,
    init_distributed,
    quiet_libraries,
    record_failures,
)


class CheckScalesHook(Hook):
    """Refuses a checkpoint whose activation scale the model would ignore."""

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check it before its weights are copied into the model."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        try:
            check_scales(model, checkpoint, str(runner._load_from))
        except ValueError as error:
            raise CheckpointError(str(error)) from None


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a checkpoint')
    parser.add_argument('config', help="config file: the one in the work dir; mmdet::FILE for one of mmdet's")
    parser.add_argument('checkpoint', help='checkpoint file')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load the checkpoint even if it can run code'
    )
    parser.add_argument('--work-dir', help='folder of logs and metrics; default: work_dirs/CONFIG')
    parser.add_argument('--out', help='file to write the predictions to, .pkl')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='folder for drawn predictions')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds for which a window is shown')
    parser.add_argument(
        '--cfg-options', nargs='+', action=Options, help='change the config: KEY=VALUE ..., or key="[a,b]"'
    )
    parser.add_argument('--launcher', choices=['none', 'pytorch', 'slurm', 'mpi'], default='none')
    # torch.distributed.launch passes --local-rank; torchrun sets LOCAL_RANK
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.out is not None and not args.out.endswith(('.pkl', '.pickle')):
        parser.error(f'--out must end with .pkl or .pickle, got {args.out}')
    if not osp.isfile(args.checkpoint) and '://' not in args.checkpoint:
        parser.error(f'there is no checkpoint {args.checkpoint}')
    return args


def load_config(args: argparse.Namespace) -> Config:
    """Read the config file and apply the command line to it."""
    cfg = read_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        cfg.work_dir = osp.join('work_dirs', osp.splitext(osp.basename(cfg.filename))[0])
    cfg.load_from = args.checkpoint
    cfg.resume = False
    if args.show or args.show_dir:
        hook = cfg.get('default_hooks', {}).get('visualization')
        if hook is None:
            raise ValueError(
                f'--show and --show-dir are for detection; {args.config} has no default_hooks.visualization '
                "(dict(type='DetVisualizationHook') draws boxes)"
            )
        # mmdet would put a relative one into the folder of this run, work_dir/TIME
        folder = osp.abspath(args.show_dir) if args.show_dir else None
        hook.update(draw=True, show=args.show, wait_time=args.wait_time, test_out_dir=folder)
    return cfg


@record_failures
def main() -> None:
    """Evaluate."""
    begin_worker()
    quiet_libraries()
    args = parse_args()
    load_safely(args.trust_checkpoint)
    try:
        cfg = load_config(args)
        check_has_model(cfg)
        check_data_sets(cfg, ['test_dataloader'])
        init_distributed(cfg)
    except (FileNotFoundError, ValueError) as error:
        end_with(error)
    runner = RUNNERS.build(cfg) if 'runner_type' in cfg else Runner.from_cfg(cfg)
    draw_on_all_workers(runner)
    runner.register_hook(CheckScalesHook())
    if args.out is not None:
        runner.test_evaluator.metrics.append(DumpResults(out_file_path=args.out))
    try:
        runner.test()
    except CheckpointError as error:
        end_with(error)
    if args.show_dir:
        runner.logger.info(f'Pictures are in {args.show_dir}')
    finish_distributed()


if __name__ == '__main__':
    main()
