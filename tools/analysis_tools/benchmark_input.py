"""Measure a config's input: batches cut out of memory and augmented on the device, against single images.

Both ways run the same transforms, those of the model's BatchPreprocessor, on the same images. The output is images
per second up to the batch on the device, of one process.

Example:
    python tools/analysis_tools/benchmark_input.py configs/cifar/preact-resnet101_resist_4xb128-160e_cifar10.py
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy

import _clone  # noqa: F401
import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.runner import Runner

from resist_mm.registry import MODELS

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


def per_image(dataloader: ConfigDict, pipeline: list, num_workers: int) -> ConfigDict:
    """The same loader with the transforms in the data set, which reads from files or from its array."""
    dataloader = deepcopy(dataloader)
    dataloader.num_workers = num_workers
    dataloader.persistent_workers = num_workers > 0
    dataloader.dataset.update(in_memory=False, pipeline=pipeline)
    return dataloader


def main() -> None:
    """Measure both ways, by turns, and print them side by side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='with data sets in memory and a BatchPreprocessor')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('--num-workers', type=int, default=0, help='processes that load single images; default: 0')
    parser.add_argument('--seconds', type=float, default=5, help='of each measurement; default: 5')
    parser.add_argument('--repeats', type=int, default=2, help='measurements of each way; default: 2')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='change the config: KEY=VALUE ...')
    args = parser.parse_args()
    cfg = Config.fromfile(args.config)
    if args.cfg_options is not None:
        cfg.merge_from_dict(args.cfg_options)
    preprocessor = cfg.model.data_preprocessor
    single = per_image(cfg.train_dataloader, preprocessor.train_pipeline, args.num_workers)
    ways = {
        'in memory, a batch at a time': (cfg.train_dataloader, preprocessor),
        f'per image, {args.num_workers} worker processes': (single, dict(type='resist_mm.BatchPreprocessor')),
    }
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.repeats):
        for way, (dataloader, prepare) in ways.items():
            speeds[way].append(images_per_second(dataloader, prepare, args.device, args.seconds))
    for way, found in speeds.items():
        print(f'{way:32} {max(found):10,.0f} images/s  (of {", ".join(f"{speed:,.0f}" for speed in found)})')
    first, second = (max(found) for found in speeds.values())
    print(f'ratio {first / second:.1f}, device {args.device}')


def _wait(device: str) -> None:
    if device.startswith('cuda'):
        torch.cuda.synchronize()


if __name__ == '__main__':
    main()
