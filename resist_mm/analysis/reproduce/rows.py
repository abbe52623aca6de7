"""The rows of the results: what is trained, in the order in which it is worth knowing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..paper.trainings import TRAININGS

__all__ = ['ROWS', 'SETS', 'Row', 'rows_of']

NAMES = {'resist': 'ResIST', 'local-sgd': 'local SGD', 'ddp': 'data-parallel'}
CIFAR10_ITERS = 8000  # of four workers with 32 images each; a validation after each sixteenth


@dataclass(frozen=True)
class Row:
    """A training that is a row of a table.

    Attributes:
        results: The set of results that it belongs to, of :data:`SETS`.
        protocol: 'resist', 'local-sgd' or 'ddp'.
        config: Path of the config, in ``configs/``.
        workers: Number of workers.
        seed: Seed of the run.
        options: What is changed in the config, by key: ``--cfg-options``.
        variant: What distinguishes rows of one protocol beside workers and seed, in words; may be empty.
    """

    results: str
    protocol: str
    config: str
    workers: int
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ''

    @property
    def name(self) -> str:
        """Name of the row, of its work dir and of its files."""
        variant = f'-{self.variant.replace(",", "").replace(" ", "-")}' if self.variant else ''
        return f'{self.results}_{self.protocol}{variant}_{self.workers}workers_seed{self.seed}'

    @property
    def label(self) -> str:
        """What is trained, in words, without the seed."""
        variant = f', {self.variant}' if self.variant else ''
        return f'{NAMES[self.protocol]}{variant}, {self.workers} workers'

    @property
    def stem(self) -> str:
        """Name of the config without its suffix."""
        return Path(self.config).stem

    @property
    def all_options(self) -> dict[str, Any]:
        """The options with the seed."""
        return {**self.options, 'randomness.seed': self.seed}


@dataclass(frozen=True)
class ResultSet:
    """A table.

    Attributes:
        title: In words.
        data: Environment variable that says where its images are.
        metrics: The columns: key of a metric, and its name.
        classes: Classes whose average precision is shown, too.
        note: What to know before rows are compared; may be empty.
        draws: Whether detections are drawn.
        drawn_course: Whether accuracy is drawn by bytes and by time; not of short runs, without CPU seconds.
    """

    title: str
    data: str
    metrics: Mapping[str, str]
    classes: tuple[str, ...] = ()
    note: str = ''
    draws: bool = False
    drawn_course: bool = True


DETECTION = {'pascal_voc/mAP': 'mAP', 'pascal_voc/loss': 'test loss'}
SETS = {
    'cifar10': ResultSet(
        'CIFAR-10, 50,000 images', 'RESIST_MM_CIFAR10', {'accuracy/top1': 'top-1, %', 'test/loss': 'test loss'}
    ),
    'voc': ResultSet(
        'YOLOv2 on 2,000 pictures of VOC2007',
        'RESIST_MM_VOC',
        DETECTION,
        classes=('bottle', 'pottedplant'),
        note='"bce" is another loss: its test loss cannot be compared with the others.',
        draws=True,
    ),
    'shapes': ResultSet(
        'YOLOv2 on generated shapes, one class rare and small',
        'RESIST_MM_RARE_SHAPES',
        {'pascal_voc/mAP': 'mAP'},  # the losses cannot be compared
        classes=('circle', 'square', 'triangle', 'star', 'cross'),
    ),
    'options': ResultSet(
        'Options of ResIST on a part of CIFAR-10, 20,000 images',
        'RESIST_MM_CIFAR10',
        {'accuracy/top1': 'top-1, %'},
        drawn_course=False,
    ),
}
OUTER = {
    'custom_hooks.0.outer.type': 'SGD',
    'custom_hooks.0.outer.lr': 0.7,
    'custom_hooks.0.outer.momentum': 0.9,
    'custom_hooks.0.outer.nesterov': True,
}
TWO_BITS = {'custom_hooks.0.codec.type': 'changes', 'custom_hooks.0.codec.bits': 2}
OWN_MOMENTUM = {'custom_hooks.0.keep_shared_momentum': True}
OVERLAP = 'custom_hooks.0.overlap_iters'
OPTIONS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ('', {}),
    ('outer step', OUTER),
    ('2 bits', TWO_BITS),
    ('2 bits and outer step', {**TWO_BITS, **OUTER}),
    ('own momentum', OWN_MOMENTUM),
    ('own momentum and outer step', {**OWN_MOMENTUM, **OUTER}),
    ('overlap 2', {OVERLAP: 2}),
    ('overlap 5', {OVERLAP: 5}),
    ('overlap 2 and outer step', {OVERLAP: 2, **OUTER}),
    ('overlap 5 and outer step', {OVERLAP: 5, **OUTER}),
    ('overlap 5, 2 bits and outer step', {OVERLAP: 5, **TWO_BITS, **OUTER}),
)
TRAININGS_OF_VARIANTS = {  # trainings of paper_table.py: how BatchNorm is treated, and the ladder of Fig. 6
    'statistics averaged': 'preact-resnet-small_resist-bn-average',
    'statistics of the batch': 'preact-resnet-small_resist-bn-batch',
    'not scaled': 'preact-resnet-small_resist-no-scale',
    'every block partitioned, not scaled': 'preact-resnet-small_resist-all-blocks',
    'post-activation, every block partitioned, not scaled': 'resnet-small_resist-all-blocks',
    'post-activation, not scaled': 'resnet-small_resist-stage3',
    'post-activation': 'resnet-small_resist-scaled',
}


def _cifar10(protocol: str, workers: int, seed: int) -> Row:
    """All rows train on the same number of images, so fewer workers take more iterations."""
    config = f'cifar/two_cores/preact-resnet38_{protocol}_4xb32-{CIFAR10_ITERS}i_cifar10.py'
    iters = CIFAR10_ITERS * 4 // workers
    interval = iters // 16
    options = {
        'train_cfg.max_iters': iters,
        'train_cfg.val_interval': interval,
        'default_hooks.checkpoint.interval': interval,
        'param_scheduler.0.end': interval,
        'param_scheduler.1.begin': interval,
        'param_scheduler.1.end': iters,
        'param_scheduler.1.T_max': iters - interval,
    }
    return Row('cifar10', protocol, config, workers, seed, options if workers != 4 else {})


def _voc(protocol: str, loss: str = '') -> Row:
    config = f'voc_small/yolo-small_{protocol}_voc2007.py'  # with the squared loss
    options = {'model.bbox_head.loss': loss} if loss else {}
    return Row('voc', protocol, config, workers=4, seed=0, options=options, variant=loss)


def _shapes(loss: str) -> Row:
    config = 'quickstart/yolo_resist_rare-shapes.py'
    return Row('shapes', 'resist', config, 2, 0, {'model.bbox_head.loss': loss}, variant=loss)


def _options(protocol: str, variant: str, options: Mapping[str, Any], seed: int) -> Row:
    config = f'cifar/small/preact-resnet-small_{protocol}_4xb32-1200i_cifar10.py'
    return Row('options', protocol, config, 4, seed, {'model.backbone.init': 'torch', **options}, variant)


def _trained_for_the_paper(variant: str, seed: int) -> Row:
    return _options(
        'resist', variant, TRAININGS[f'{TRAININGS_OF_VARIANTS[variant]}_4xb32-1200i_cifar10'].options, seed
    )


ROWS = (
    _cifar10('resist', 4, 0),
    _cifar10('local-sgd', 4, 0),
    _cifar10('ddp', 4, 0),
    _voc('resist'),
    _voc('local-sgd'),
    _voc('ddp'),
    _shapes('bce'),
    _shapes('squared'),
    _cifar10('resist', 2, 0),
    _cifar10('resist', 8, 0),
    *(_cifar10(protocol, 4, seed) for seed in (1, 2) for protocol in ('resist', 'local-sgd')),
    _voc('resist', loss='bce'),
    _cifar10('local-sgd', 2, 0),
    _cifar10('local-sgd', 8, 0),
    *(_options('resist', variant, options, seed) for variant, options in OPTIONS for seed in range(3)),
    *(_options('local-sgd', '', {}, seed) for seed in range(3)),
    *(_trained_for_the_paper(variant, seed) for seed in range(3) for variant in TRAININGS_OF_VARIANTS),
)


def rows_of(sets: list[str]) -> list[Row]:
    """The rows of some sets, in their order.

    Args:
        sets (list[str]): Of :data:`SETS`; 'all' for all.
    """
    return [row for row in ROWS if 'all' in sets or row.results in sets]
