"""Seconds of mmcv's compiled ops beside those of the stand-ins."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

import torch

from resist_mm.ops.stand_in import StandIn

__all__ = ['main']

ROI = dict(aligned_height=7, aligned_width=7, spatial_scale=0.25, sampling_ratio=0, pool_mode=1, aligned=True)
CONV = dict(kW=3, kH=3, dW=1, dH=1, padW=1, padH=1, dilationW=1, dilationH=1, group=1, deformable_group=1)


def _cases(generator: torch.Generator) -> dict[str, Callable[[ModuleType], Any]]:
    """Calls of an op, by what to call it in the table."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    corners = 200 * draw(500, 2)
    boxes, scores = torch.cat([corners, corners + 20 + 40 * draw(500, 2)], 1), draw(500)
    features, rois = draw(1, 256, 64, 64), torch.cat([torch.zeros(500, 1), boxes], 1)
    pooled, empty = draw(500, 256, 7, 7), torch.zeros(0)
    x, weight, offset, out = draw(2, 64, 32, 32), draw(64, 64, 3, 3), draw(2, 18, 32, 32), draw(2, 64, 32, 32)
    step = dict(CONV, im2col_step=2)

    def deform_conv_weight(ops: ModuleType) -> None:
        columns, ones = x.new_empty(0), x.new_empty(0)
        ops.deform_conv_backward_parameters(
            x, offset, out, torch.zeros_like(weight), columns, ones, **CONV, scale=1, im2col_step=2
        )

    return {
        'NMS, 500 boxes': lambda ops: ops.nms(boxes, scores, iou_threshold=0.5, offset=0),
        'soft NMS, 500 boxes': lambda ops: ops.softnms(
            boxes,
            scores,
            boxes.new_empty(500, 5),
            iou_threshold=0.3,
            sigma=0.5,
            min_score=1e-3,
            method=1,
            offset=0,
        ),
        'RoIAlign, forward': lambda ops: ops.roi_align_forward(
            features, rois, torch.zeros_like(pooled), empty, empty, **ROI
        ),
        'RoIAlign, backward': lambda ops: ops.roi_align_backward(
            pooled, rois, empty, empty, torch.zeros_like(features), **ROI
        ),
        'deformable convolution, forward': lambda ops: ops.deform_conv_forward(
            x, weight, offset, out.clone(), x.new_empty(0), x.new_empty(0), **step
        ),
        'deformable convolution, gradient of the weights': deform_conv_weight,
    }


def main(arguments: list[str] | None = None) -> None:
    """The command ``benchmark_ops.py``."""
    parser = argparse.ArgumentParser(
        description="mmcv's compiled ops beside torchvision's in their place, on the CPU"
    )
    parser.add_argument('--repeats', type=int, default=9, help='calls of each, in turns')
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    stand_in = StandIn('stand-in')
    compiled = importlib.import_module('mmcv._ext')
    if isinstance(compiled, StandIn):
        parser.error('mmcv has no compiled ops here: bash tools/setup_env.sh --with-ops')
    print(
        f'torch {version("torch")}, torchvision {version("torchvision")}, mmcv {version("onedl-mmcv")}, '
        'one CPU thread'
    )
    print(f'{"":50s} {"compiled ms":>12s} {"stand-in ms":>12s} {"ratio":>7s}')
    for name, call in _cases(torch.Generator().manual_seed(0)).items():
        seconds: dict[ModuleType, list[float]] = {compiled: [], stand_in: []}
        for ops in (compiled, stand_in) * (args.repeats + 1):
            began = perf_counter()
            call(ops)
            seconds[ops].append(perf_counter() - began)
        of_compiled, of_stand_in = (1000 * median(seconds[ops][1:]) for ops in (compiled, stand_in))
        print(f'{name:50s} {of_compiled:12.2f} {of_stand_in:12.2f} {of_stand_in / of_compiled:7.2f}')
