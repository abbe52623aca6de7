"""The figures of the paper, cell by cell, with the training that reproduces each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ['TABLES', 'Cell', 'title_of']


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        table: Such as '2' or 'fig6'.
        label: What was run.
        quantity: 'top-1', 'test loss', 'seconds', 'hours', 'GB', 'GB a round', 'hours to TARGET', or 'speed-up'
            (the baseline's seconds by its own).
        paper: The figure of the paper; None if it has none.
        training: Name of the training.
        baseline: Name of the training that a speed-up refers to.
        tested: Work dir of a separate test, relative to that of the run; '' if validations count.
        deviation: Deviation of the paper's figure over three trials; None if it is not used here.
    """

    table: str
    label: str
    quantity: str
    paper: float | None
    training: str
    baseline: str = ''
    tested: str = ''
    deviation: float | None = None


NAMES = {'resist': 'ResIST', 'local-sgd': 'local SGD'}
EPOCHS = {2: 80, 4: 160, 8: 160}
WORKERS = (2, 4, 8)


def title_of(table: str) -> str:
    """A table's name in words."""
    if table == 'small':
        return 'Small runs on two CPU cores, not in the paper'
    return f'Table {table}' if table.isdigit() else table.replace('fig', 'Fig. ')


def _cifar(protocol: str, workers: int, classes: int) -> str:
    """Name of a training of Tables 1, 2 and 4."""
    return f'preact-resnet101_{protocol}_{workers}xb128-{EPOCHS[workers]}e_cifar{classes}'


def _table1() -> Iterator[Cell]:
    figures = {'local-sgd': (0.662, 1.325, 2.649), 'resist': (0.454, 0.720, 1.289)}
    for protocol, row in figures.items():
        for workers, gb in zip(WORKERS, row, strict=True):
            label = f'{NAMES[protocol]}, {workers} workers, CIFAR-100'
            yield Cell('1', label, 'GB a round', gb, _cifar(protocol, workers, 100))


def _table2() -> Iterator[Cell]:
    figures = {
        ('local-sgd', 10): ((92.36, 0.01), (92.90, 0.06), (92.00, 0.07)),
        ('local-sgd', 100): ((70.67, 0.03), (71.51, 0.04), (69.64, 0.05)),
        ('resist', 10): ((91.95, 0.32), (92.35, 0.22), (91.45, 0.30)),
        ('resist', 100): ((70.06, 0.51), (71.30, 0.20), (70.26, 0.21)),
    }
    for (protocol, classes), row in figures.items():
        for workers, (top1, deviation) in zip(WORKERS, row, strict=True):
            label = f'{NAMES[protocol]}, {workers} workers, CIFAR-{classes}'
            training = _cifar(protocol, workers, classes)
            yield Cell('2', label, 'top-1', top1, training, deviation=deviation)


def _table3() -> Iterator[Cell]:
    figures = {
        ('local-sgd', 2): (73.32, 60.72, 69.47, 75.48, 48.61, 7546.8),
        ('local-sgd', 4): (72.66, 59.88, 68.34, 74.27, 29.29, 7546.8),
        ('resist', 2): (71.60, 58.92, 67.51, 73.56, 36.79, 5831.2),
        ('resist', 4): (70.74, 57.56, 66.46, 72.65, 22.37, 6007.6),
    }
    tests = ('', 'imagenetv2-matched-frequency', 'imagenetv2-threshold-0.7', 'imagenetv2-top-images')
    for (protocol, workers), row in figures.items():
        training = f'preact-resnet101_{protocol}_{workers}xb256-90e_in1k'
        label = f'{NAMES[protocol]}, {workers} workers, ImageNet'
        for test, top1 in zip(tests, row, strict=False):
            yield Cell('3', f'{label} {test}'.strip(), 'top-1', top1, training, tested=test)
        yield Cell('3', label, 'hours', row[4], training)
        yield Cell('3', label, 'GB', row[5], training)
    for workers, ratio in ((2, 1.32), (4, 1.31)):
        trainings = {p: f'preact-resnet101_{p}_{workers}xb256-90e_in1k' for p in NAMES}
        yield _speed_up('3', f'{workers} workers, ImageNet', trainings, ratio)


def _table4() -> Iterator[Cell]:
    figures = {
        (4, 10): (5486, 1532, 3.60),
        (4, 100): (5528, 1545, 3.58),
        (8, 10): (10072, 2671, 3.77),
        (8, 100): (10058, 2639, 3.81),
    }
    for (workers, classes), row in figures.items():
        trainings = {p: _cifar(p, workers, classes) for p in NAMES}
        yield from _times('4', f'{workers} workers, CIFAR-{classes}', trainings, row)


def _table5() -> Iterator[Cell]:
    for workers, target, row in ((2, 71.0, (33.26, 26.63)), (4, 70.7, (18.50, 18.12))):
        for protocol, hours in zip(('local-sgd', 'resist'), row, strict=True):
            training = f'preact-resnet101_{protocol}_{workers}xb256-90e_in1k'
            label = f'{NAMES[protocol]}, {workers} workers, ImageNet'
            yield Cell('5', label, f'hours to {target}', hours, training)


def _table6() -> Iterator[Cell]:
    figures = {
        ('local-sgd', 2): (6.15, 39621),
        ('local-sgd', 4): (6.22, 16840),
        ('resist', 2): (5.99, 24058),
        ('resist', 4): (6.69, 11264),
    }
    for (protocol, workers), (loss, seconds) in figures.items():
        label = f'{NAMES[protocol]}, {workers} workers, Pascal VOC'
        yield Cell('6', label, 'test loss', loss, _yolo(protocol, workers))
        yield Cell('6', label, 'seconds', seconds, _yolo(protocol, workers))
    for workers, ratio in ((2, 1.64), (4, 1.49)):
        trainings = {p: _yolo(p, workers) for p in NAMES}
        yield _speed_up('6', f'{workers} workers, Pascal VOC', trainings, ratio)


def _yolo(protocol: str, workers: int) -> str:
    return f'yolo_{protocol}_{workers}xb10-100e_voc'


def _table7() -> Iterator[Cell]:
    figures = {10: (92.27, 92.56, 90.67), 100: (72.08, 72.12, 67.98)}
    members = {2: 'preact-resnet46-shallow2_1xb128-40e', 4: 'preact-resnet36-shallow4_1xb128-40e'}
    members[8] = 'preact-resnet32-shallow8_1xb128-20e'
    for classes, row in figures.items():
        for count, top1 in zip(WORKERS, row, strict=True):
            label = f'ensemble of {count}, CIFAR-{classes}'
            yield Cell('7', label, 'top-1', top1, f'{members[count]}_cifar{classes}', tested='../ensemble')


def _table8() -> Iterator[Cell]:
    accuracies = {
        (152, 10): {2: (92.27, 92.01), 4: (91.39, 90.67)},
        (200, 10): {2: (92.31, 92.10), 4: (91.35, 90.27)},
        (152, 100): {2: (70.50, 70.32), 4: (68.39, 67.27)},
        (200, 100): {2: (71.05, 70.71), 4: (69.05, 67.62)},
    }
    times = {
        (152, 10): {2: (3512, 2215, 1.58), 4: (3598, 1054, 3.41)},
        (200, 10): {2: (4575, 2380, 1.92), 4: (4357, 1161, 3.75)},
        (152, 100): {2: (3528, 2291, 1.53), 4: (3518, 1164, 3.02)},
        (200, 100): {2: (4639, 2202, 2.10), 4: (4391, 1195, 3.67)},
    }
    for (depth, classes), by_workers in accuracies.items():
        for workers, row in by_workers.items():
            trainings = {p: f'preact-resnet{depth}_{p}-l100_{workers}xb128-80e_cifar{classes}' for p in NAMES}
            what = f'ResNet{depth}, {workers} workers, CIFAR-{classes}'
            for protocol, top1 in zip(('local-sgd', 'resist'), row, strict=True):
                yield Cell('8', f'{NAMES[protocol]}, {what}', 'top-1', top1, trainings[protocol])
            yield from _times('8', what, trainings, times[depth, classes][workers])


def _table9() -> Iterator[Cell]:
    figures = {10: (92.14, 92.26, 91.91, 91.35, 76.33), 100: (71.38, 72.15, 71.37, 68.29, 40.48)}
    for classes, row in figures.items():
        for bits, top1 in zip((8, 7, 6, 5, 4), row, strict=True):
            training = f'preact-resnet101_resist-{bits}bit_4xb128-160e_cifar{classes}'
            yield Cell('9', f'{bits} bit, CIFAR-{classes}', 'top-1', top1, training)
    training = 'preact-resnet101_resist-top25_4xb128-160e_cifar100'
    yield Cell('9', 'largest 25%, CIFAR-100', 'top-1', 71.25, training)


def _figure6() -> Iterator[Cell]:
    two = 'resnet101_resist-{}_2xb128-80e_cifar10'
    eight = 'preact-resnet101_resist-{}_8xb128-160e_cifar10'
    steps = [
        ('partition every block', 66.3, two.format('all-blocks'), 2),
        ('share the strided ones', 68.3, two.format('share-strided'), 2),
        ('partition stage 3 only', 84.3, two.format('stage3'), 2),
        ('scale activations', 91.5, two.format('scaled'), 2),
        ('pre-activation', 92.0, _cifar('resist', 2, 10), 2),
        ('eight workers', 86.5, eight.format('no-min-depth'), 8),
        ('minimum depth', 89.9, eight.format('min-depth'), 8),
        ('tuned local iterations', 91.3, _cifar('resist', 8, 10), 8),
    ]
    for label, top1, training, workers in steps:
        yield Cell('fig6', f'{label}, {workers} workers', 'top-1', top1, training)


def _figure7() -> Iterator[Cell]:
    for protocol, name in NAMES.items():
        for local_iters in (125, 625, 3125, 15625):
            training = f'preact-resnet101_{protocol}-l{local_iters}_4xb128-160e_cifar100'
            yield Cell('fig7', f'{name}, {local_iters} iterations', 'top-1', None, training)


def _figure8() -> Iterator[Cell]:
    runs = [
        ('data-parallel', 20000, _cifar('ddp', 4, 100)),
        ('local SGD', 410, _cifar('local-sgd', 4, 100)),
        ('ResIST', 225, _cifar('resist', 4, 100)),
        ('ResIST, 6 bit', 42, 'preact-resnet101_resist-6bit_4xb128-160e_cifar100'),
        ('ResIST, largest 25%', None, 'preact-resnet101_resist-top25_4xb128-160e_cifar100'),
    ]
    for label, gb, training in runs:
        yield Cell('fig8', f'{label}, 4 workers, CIFAR-100', 'GB', gb, training)
        yield Cell('fig8', f'{label}, 4 workers, CIFAR-100', 'top-1', None, training)


def _small() -> Iterator[Cell]:
    name = '{}-small_{}_4xb32-1200i_cifar10'
    runs = [
        ('local SGD', 'preact-resnet', 'local-sgd'),
        ('ResIST', 'preact-resnet', 'resist'),
        ('statistics averaged', 'preact-resnet', 'resist-bn-average'),
        ('statistics of the batch', 'preact-resnet', 'resist-bn-batch'),
        ('not scaled', 'preact-resnet', 'resist-no-scale'),
        ('every block partitioned, not scaled', 'preact-resnet', 'resist-all-blocks'),
        ('post-activation, every block partitioned, not scaled', 'resnet', 'resist-all-blocks'),
        ('post-activation, not scaled', 'resnet', 'resist-stage3'),
        ('post-activation', 'resnet', 'resist-scaled'),
    ]
    for label, network, protocol in runs:
        yield Cell('small', f'{label}, 4 workers, CIFAR-10', 'top-1', None, name.format(network, protocol))


def _times(table: str, what: str, trainings: dict[str, str], row: tuple[float, float, float]) -> Iterator[Cell]:
    baseline, resist, ratio = row
    yield Cell(table, f'local SGD, {what}', 'seconds', baseline, trainings['local-sgd'])
    yield Cell(table, f'ResIST, {what}', 'seconds', resist, trainings['resist'])
    yield _speed_up(table, what, trainings, ratio)


def _speed_up(table: str, what: str, trainings: dict[str, str], ratio: float) -> Cell:
    return Cell(table, f'ResIST, {what}', 'speed-up', ratio, trainings['resist'], trainings['local-sgd'])


TABLES: dict[str, list[Cell]] = {
    '1': list(_table1()),
    '2': list(_table2()),
    '3': list(_table3()),
    '4': list(_table4()),
    '5': list(_table5()),
    '6': list(_table6()),
    '7': list(_table7()),
    '8': list(_table8()),
    '9': list(_table9()),
    'fig6': list(_figure6()),
    'fig7': list(_figure7()),
    'fig8': list(_figure8()),
    'small': list(_small()),
}
