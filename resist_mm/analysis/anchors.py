"""Priors (anchors) of a YOLO head that fit the boxes of a training set, by k-means on IoU.

Only annotations are read. Prints what to put into the config. Examples:
    python tools/analysis_tools/optimize_anchors.py my_config.py
    python tools/analysis_tools/optimize_anchors.py my_config.py --num 7 --input-size 448 448
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, TASK_UTILS, init_default_scope

from ..convert import Options, read_config
from ..datasets.annotations import leaf_data_sets

__all__ = ['box_sizes', 'kmeans', 'main', 'mean_best_iou', 'size_ious']

MAX_STEPS = 1000
RESTARTS = 10
RESIZE = ('Resize', 'FixShapeResize')


def size_ious(sizes: np.ndarray, priors: np.ndarray) -> np.ndarray:
    """IoU of every box with every prior as if they had the same centre.

    Args:
        sizes (np.ndarray): Widths and heights of M boxes, (M, 2).
        priors (np.ndarray): Widths and heights of A priors, (A, 2).

    Returns:
        np.ndarray: (M, A).
    """
    overlap = np.minimum(sizes[:, None], priors).prod(axis=-1)
    return overlap / (sizes.prod(axis=-1)[:, None] + priors.prod(axis=-1) - overlap)


def mean_best_iou(sizes: np.ndarray, priors: np.ndarray) -> float:
    """Mean over the boxes of the IoU with the prior that fits best, what YOLO9000's Table 1 compares."""
    return float(size_ious(sizes, priors).max(axis=1).mean())


def kmeans(sizes: np.ndarray, num: int, seed: int = 0, restarts: int = RESTARTS) -> np.ndarray:
    """Cluster boxes by the distance 1 - IoU, as in `YOLO9000 <https://arxiv.org/abs/1612.08242>`_, section 2.

    Starts as k-means++ does, several times, and keeps the best. (scikit-learn's k-means only knows the Euclidean
    distance, for which an error of a large box weighs more than one of a small box.)

    Args:
        sizes (np.ndarray): Widths and heights of M boxes in pixels, (M, 2).
        num (int): Number of clusters.
        seed (int): Of the starts. Defaults to 0.
        restarts (int): Number of starts. Defaults to 10.

    Returns:
        np.ndarray: Widths and heights of the priors, (num, 2), by area.

    Raises:
        ValueError: If there are not that many different boxes.
    """
    different = len(np.unique(sizes, axis=0))
    if not 1 <= num <= different:
        raise ValueError(f'{num} priors were asked for; there are {different} different sizes of boxes')
    rng = np.random.default_rng(seed)
    found = [_cluster(sizes, _start(sizes, num, rng)) for _ in range(restarts)]
    best = max(found, key=lambda priors: mean_best_iou(sizes, priors))
    return best[best.prod(axis=1).argsort()]


def _start(sizes: np.ndarray, num: int, rng: np.random.Generator) -> np.ndarray:
    """Boxes that are far from each other, by chance (k-means++)."""
    chosen = sizes[rng.integers(len(sizes))][None]
    while len(chosen) < num:
        distance = (1 - size_ious(sizes, chosen).max(axis=1)).clip(0) ** 2
        chosen = np.vstack([chosen, sizes[rng.choice(len(sizes), p=distance / distance.sum())]])
    return chosen


def _cluster(sizes: np.ndarray, priors: np.ndarray) -> np.ndarray:
    best, best_iou = priors, mean_best_iou(sizes, priors)
    for _ in range(MAX_STEPS):
        nearest = size_ious(sizes, priors).argmax(axis=1)
        members = [sizes[nearest == i] for i in range(len(priors))]
        # the mean does not maximise the IoU, so a step can lose; a cluster without members stays where it is
        priors = np.stack([m.mean(axis=0) if len(m) else p for m, p in zip(members, priors, strict=True)])
        iou = mean_best_iou(sizes, priors)
        if iou <= best_iou:
            break
        best, best_iou = priors, iou
    return best


def box_sizes(dataset: Any, scale: Sequence[float], keep_ratio: bool) -> np.ndarray:
    """Widths and heights of the boxes to train on, in pixels of the network's input.

    Args:
        dataset (Any): A data set of mmdet's kind, also inside wrappers.
        scale (Sequence[float]): Width and height that images are resized to.
        keep_ratio (bool): Whether they are resized to fit into that, or stretched.

    Returns:
        np.ndarray: (M, 2); ignored boxes and those without an area are left out.
    """
    sizes = []
    for leaf in leaf_data_sets(dataset):
        for index in range(len(leaf)):
            info = leaf.get_data_info(index)
            factor = np.array(scale) / (info['width'], info['height'])
            if keep_ratio:  # as mmcv's Resize: the long edge into the longer, the short one into the shorter
                edges = sorted((info['width'], info['height']))
                factor = min(max(scale) / edges[1], min(scale) / edges[0])
            boxes = [one['bbox'] for one in info['instances'] if not one.get('ignore_flag')]
            if boxes:
                corners = np.array(boxes, dtype=float)
                sizes.append((corners[:, 2:] - corners[:, :2]) * factor)
    every = np.concatenate(sizes) if sizes else np.empty((0, 2))
    return every[(every > 0).all(axis=1)]


def main() -> None:
    """Print the mean best IoU of the priors of a config, and of better ones with their lines for the config."""
    args = parse_args()
    try:
        cfg = read_config(args.config, args.cfg_options)
        init_default_scope(cfg.get('default_scope', 'mmdet'))
        if not (cfg.get('train_dataloader') or {}).get('dataset'):
            raise ValueError(f'{args.config} has no train_dataloader.dataset, whose boxes the priors have to fit')
        generator = prior_generator(cfg)
        scale, keep_ratio = _input_size(cfg, args.input_size)
        dataset = DATASETS.build(cfg.train_dataloader.dataset)
        sizes = box_sizes(dataset, scale, keep_ratio)
        present = np.array([size for level in generator.base_sizes for size in level], dtype=float)
        priors = kmeans(sizes, len(present) if args.num is None else args.num, args.seed)
        lines = config_lines(priors, generator)
    except (OSError, ValueError) as error:
        sys.exit(f'optimize_anchors.py: {error}')
    fitted = 'fitted into' if keep_ratio else 'stretched to'
    print(f'{len(sizes)} boxes of {len(dataset)} images, {fitted} {scale[0]:g} x {scale[1]:g}')
    print(f'mean best IoU with the {len(present)} priors of the config: {mean_best_iou(sizes, present):.3f}')
    print(f'mean best IoU with {len(priors)} priors by k-means: {mean_best_iou(sizes, priors.round(1)):.3f}')
    print(f'\n{lines}')


def parse_args() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of a detector with priors as in YOLO; PACKAGE::FILE of a package')
    parser.add_argument('--num', type=int, help='number of priors; default: as many as the config has')
    parser.add_argument(
        '--input-size',
        type=int,
        nargs=2,
        metavar=('WIDTH', 'HEIGHT'),
        help="stretch images to this size; default: what the training pipeline's Resize does",
    )
    parser.add_argument('--seed', type=int, default=0, help='of the starts of k-means; default: 0')
    parser.add_argument('--cfg-options', nargs='+', action=Options, help='change the config: KEY=VALUE ...')
    return parser.parse_args()


def prior_generator(cfg: Config) -> Any:
    """The generator of the priors of a config's head, also where the config leaves it to the head.

    Raises:
        ValueError: If the model has no head with priors as in YOLO.
    """
    head = (cfg.get('model') or {}).get('bbox_head')
    generator = head.get('anchor_generator') if isinstance(head, Mapping) else None
    if generator is not None:
        generator = TASK_UTILS.build(generator)
    elif isinstance(head, Mapping) and str(head.get('type')).endswith('YOLOV2Head'):
        generator = MODELS.build(dict(head, init_cfg=None)).prior_generator
    if not hasattr(generator, 'base_sizes'):
        raise ValueError(
            'model.bbox_head must have priors of given sizes (YOLOAnchorGenerator), as resist_mm.YOLOV2Head and '
            f"mmdet's YOLOV3Head; got {head.get('type') if isinstance(head, Mapping) else head!r}"
        )
    return generator


def config_lines(priors: np.ndarray, generator: Any) -> str:
    """The lines to put into a config: the smallest priors for the finest level.

    Raises:
        ValueError: If the levels of the head cannot share them equally.
    """
    strides = [stride[0] for stride in generator.strides]
    if len(priors) % len(strides):
        raise ValueError(f'{len(priors)} priors cannot be shared equally by the {len(strides)} levels of the head')
    shares = np.split(priors.round(1), len(strides))
    levels = dict(zip(sorted(strides), shares, strict=True))
    sizes = ['[' + ', '.join(f'({w:g}, {h:g})' for w, h in levels[stride]) + '],' for stride in strides]
    return '\n'.join(
        [
            'model = dict(bbox_head=dict(anchor_generator=dict(',
            f"    type='mmdet.YOLOAnchorGenerator', strides={strides}, base_sizes=[",
            *(f'        {size}' for size in sizes),
            '    ],',
            ')))',
        ]
    )


def _input_size(cfg: Config, asked: Sequence[int] | None) -> tuple[tuple[float, float], bool]:
    """What images are resized to, and whether they keep their aspect ratio.

    Raises:
        ValueError: If the training pipeline does not resize to one size.
    """
    if asked is not None:
        return (asked[0], asked[1]), False
    for step in _pipeline_steps(cfg.train_dataloader.dataset):
        scale = step.get('scale')
        if str(step.get('type')).rpartition('.')[2] not in RESIZE or scale is None:
            continue
        width, height = (scale, scale) if isinstance(scale, int | float) else scale
        return (width, height), bool(step.get('keep_ratio'))
    raise ValueError('the training pipeline has no Resize to one size: name one with --input-size WIDTH HEIGHT')


def _pipeline_steps(dataset: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(dataset, Mapping):
        yield from dataset.get('pipeline') or ()
        for inner in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
            yield from _pipeline_steps(inner)
