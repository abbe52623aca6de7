"""Test independently trained classifiers as an ensemble that averages their logits (Sec. A.2, Table 7).

Example:
    python tools/test_ensemble.py CONFIG work_dirs/NAME/*/epoch_40.pth --whole configs/cifar/WHOLE.py
"""

from __future__ import annotations

import argparse
import os.path as osp
import sys
import time

sys.path.insert(0, osp.dirname(osp.dirname(osp.abspath(__file__))))

import torch
from mmengine.runner import Runner
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from resist_mm.checkpoint import CheckpointError, load_safely
from resist_mm.config_values import check_has_model
from resist_mm.convert import Options, read_config
from resist_mm.launch import end_with, quiet_libraries
from resist_mm.registry import MODELS


def inference_cost(model: nn.Module, image_size: int, batch_size: int) -> tuple[float, float, float]:
    """The cost of a model at test time.

    Args:
        model (nn.Module): A classifier.
        image_size (int): Height and width of its images.
        batch_size (int): Number of images at a time.

    Returns:
        tuple[float, float, float]: Millions of parameters, billions of multiply-adds per image, and milliseconds
        per image in the fastest of five batches.
    """
    model.eval()
    device = next(model.parameters()).device
    images = torch.zeros(batch_size, 3, image_size, image_size, device=device)
    seconds = []
    with torch.no_grad():
        with FlopCounterMode(display=False) as counter:
            model(images[:1])
        for _ in range(5):
            began = time.perf_counter()
            model(images)
            if device.type == 'cuda':
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    params = sum(p.numel() for p in model.parameters())
    return params / 1e6, counter.get_total_flops() / 2e9, 1e3 * min(seconds) / batch_size


def main() -> None:
    """Test the ensemble; print its accuracy and its cost beside those of one member and of the whole network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the members; PACKAGE::FILE for one of a package')
    parser.add_argument('checkpoints', nargs='+', help='a checkpoint for every member')
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load the checkpoints even if they can run code'
    )
    parser.add_argument('--whole', help='config of the network to compare the cost with, such as that of ResIST')
    parser.add_argument('--work-dir', help='default: work_dirs/CONFIG/ensemble')
    parser.add_argument('--image-size', type=int, default=32, help='for counting the cost; default: 32')
    parser.add_argument('--batch-size', type=int, default=100, help='for measuring the time; default: 100')
    parser.add_argument('--cfg-options', nargs='+', action=Options, help='change the config: KEY=VALUE ...')
    args = parser.parse_args()
    quiet_libraries()
    load_safely(args.trust_checkpoint)
    for checkpoint in args.checkpoints:
        if not osp.isfile(checkpoint):
            parser.error(f'there is no checkpoint {checkpoint}')
    try:
        cfg = read_config(args.config, args.cfg_options)
        whole = None if args.whole is None else read_config(args.whole)
        for read in (cfg, whole) if whole is not None else (cfg,):
            check_has_model(read)
    except (FileNotFoundError, ValueError) as error:
        end_with(error)
    name = osp.splitext(osp.basename(args.config))[0]
    cfg.work_dir = args.work_dir or osp.join('work_dirs', name, 'ensemble')
    cfg.launcher = 'none'
    cfg.model = dict(type='resist_mm.EnsembleClassifier', member=cfg.model, checkpoints=args.checkpoints)
    try:
        runner = Runner.from_cfg(cfg)
        metrics = runner.test()
    except CheckpointError as error:
        end_with(error)
    models = {'one member': runner.model.members[0], f'ensemble of {len(args.checkpoints)}': runner.model}
    if whole is not None:
        models['whole network'] = MODELS.build(whole.model).to(next(runner.model.parameters()).device)
    for key, value in metrics.items():
        print(f'{key}: {value:.4g}')
    print(f'{"":16} {"M parameters":>13} {"G mult-adds":>12} {"ms an image":>12}')
    for label, model in models.items():
        params, mult_adds, ms = inference_cost(model, args.image_size, args.batch_size)
        print(f'{label:16} {params:13.3f} {mult_adds:12.3f} {ms:12.3f}')


if __name__ == '__main__':
    main()
