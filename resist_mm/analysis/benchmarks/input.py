"""Measure a config's input: batches cut out of memory and augmented on the device, against single images.

All ways run the same transforms, those of the model's BatchPreprocessor, on the same images: on whole batches on
the device; on single images that lie in memory, too; on single images that are read from files and decoded, or cut
out of torchvision's array. The output is images per second up to the batch on the device, of one training process.

Example:
    python tools/analysis_tools/benchmark_input.py configs/cifar/preact-resnet101_resist_4xb128-160e_cifar10.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from copy import deepcopy

import torch
from mmengine.config import ConfigDict, DictAction
from mmengine.runner import Runner

from ...convert import read_config
from ...registry import MODELS

WARMUP_BATCHES = 2


def images_per_second(dataloader: dict, preprocessor: dict, device: str, seconds: float) -> float:
    """Run a loader and a preprocessor for some time.

    Args:
        dataloader (dict): Config of the dataloader.
        preprocessor (dict): Config of the data preprocessor.
        device (str): Where batches go.
        seconds (float): How long to measure, after two batches.

    Returns:
        float: Images per second.
    """
    loader = Runner.build_dataloader(deepcopy(dataloader), seed=0)
    prepare = MODELS.build(preprocessor).to(device)
    count, began, batches = 0, 0.0, 0
    while True:
        for batch in loader:
            prepared = prepare(batch, True)
            batches += 1
            if batches <= WARMUP_BATCHES:
                _wait(device)
                began = time.perf_counter()
                continue
            count += len(prepared['inputs'])
            _wait(device)
            if time.perf_counter() - began > seconds:
                return count / (time.perf_counter() - began)


def per_image(dataloader: ConfigDict, pipeline: list, num_workers: int, in_memory: bool) -> ConfigDict:
    """The same loader with the transforms in the data set."""
    dataloader = deepcopy(dataloader)
    dataloader.num_workers = num_workers
    dataloader.persistent_workers = num_workers > 0
    dataloader.dataset.update(in_memory=in_memory, pipeline=pipeline)
    return dataloader


def main() -> None:
    """Measure all ways, by turns, and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='with data sets in memory and a BatchPreprocessor')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--num-workers', type=int, default=0, help='processes that load single images; default: 0')
    parser.add_argument('--seconds', type=float, default=5, help='of each measurement; default: 5')
    parser.add_argument('--repeats', type=int, default=3, help='measurements of each way; default: 3')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change the config: KEY=VALUE ...')
    args = parser.parse_args()
    cfg = read_config(args.config, args.cfg_options)
    preprocessor = cfg.model.data_preprocessor
    nothing = dict(type='resist_mm.BatchPreprocessor')
    ways = {'in memory, whole batches': (cfg.train_dataloader, preprocessor)}
    for name, in_memory in (('in memory, single images', True), ('single images', False)):
        loader = per_image(cfg.train_dataloader, preprocessor.train_pipeline, args.num_workers, in_memory)
        ways[f'{name}, {args.num_workers} loader processes'] = (loader, nothing)
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.repeats):
        for way, (dataloader, prepare) in ways.items():
            speeds[way].append(images_per_second(dataloader, prepare, args.device, args.seconds))
    for way, found in speeds.items():
        shown = ', '.join(f'{speed:,.0f}' for speed in found)
        print(f'{way:45} {statistics.median(found):10,.0f} images/s  (median of {shown})')
    first, *others = (statistics.median(found) for found in speeds.values())
    print(f'ratios {", ".join(f"{first / other:.1f}" for other in others)}, device {args.device}')


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()
