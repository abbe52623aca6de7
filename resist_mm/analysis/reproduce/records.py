"""What a finished row leaves behind: a small record, its log, its pictures."""

from __future__ import annotations

import gzip
import json
import os
import platform
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ...exchange.wire import average_bytes
from ..cost.config_run import read_config
from ..cost.network_size import FP32_BYTES
from ..runs import RunSummary, read_run
from .rows import SETS, Row
from .running import command_of, spent_seconds

__all__ = ['record_of', 'thinned_log', 'write_record']

MB = 1e6
PACKAGES = ('resist_mm', 'torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'numpy')
KEPT = re.compile(r' - (?:Iter|Epoch)\((?:train|val)\)|Round \d+: |Resumed|WARNING|workers train sub')
EPOCH = re.compile(r'Epoch\(train\)\s+\[\d+\]\[\s*\d+/(\d+)\]')
OF_CLASS = re.compile(r'^\| (\w+) +\| (\d+) +\| (\d+) +\| ([\d.]+) +\| ([\d.]+) +\|$', re.MULTILINE)
# a folder of this machine
FOLDER = re.compile(r'(?<![\w.])/(?:[\w.+-]+/)+')


def write_record(row: Row, work_dir: Path, out: Path) -> None:
    """Write the record and the log of a finished row.

    Args:
        row (Row): The row.
        work_dir (Path): Its work dir.
        out (Path): Folder of its set of results; gets ``NAME.json`` and ``NAME.log.gz``.
    """
    out.mkdir(parents=True, exist_ok=True)
    (out / f'{row.name}.json').write_text(json.dumps(record_of(row, work_dir), indent=1) + '\n')
    # without the time of writing, so that the same log gives the same file
    (out / f'{row.name}.log.gz').write_bytes(gzip.compress(thinned_log(work_dir).encode(), mtime=0))


def record_of(row: Row, work_dir: Path) -> dict[str, Any]:
    """Everything that is known of a finished row.

    Args:
        row (Row): The row.
        work_dir (Path): Its work dir.

    Returns:
        dict[str, Any]: What was run, with which versions, and the course of its metrics: ``course`` has, for every
        validation, images trained on, bytes that all workers have sent (each once), CPU seconds of the worker
        that has used the most, and the metrics.
    """
    run = read_run(work_dir)
    config = read_config(str(work_dir / f'{row.stem}.py'))
    parameters = config.network.whole.total
    per_step = _iterations_per_step(work_dir) * (config.batch_size or 0) * row.workers
    course = list(_course(row, run, per_step, parameters, _iterations_per_step(work_dir)))
    return dict(
        name=row.name,
        label=row.label,
        protocol=row.protocol,
        workers=row.workers,
        seed=row.seed,
        config=f'configs/{row.config}',
        options=row.all_options,
        command=shlex.join(command_of(row, 'work_dirs/reproduce')),
        local_iters=config.hook.get('local_iters'),
        batch_size=config.batch_size,
        parameters=parameters,
        images=course[-1]['images'],
        bytes=course[-1]['bytes'],
        cpu_sec=course[-1].get('cpu_sec'),
        wall_sec=round(spent_seconds(work_dir)),
        machine=_machine(),
        versions=dict(_versions()),
        ap_by_class=_ap_by_class(work_dir),
        course=course,
    )


def _course(
    row: Row, run: RunSummary, images: int, parameters: int, iterations: int
) -> Iterator[dict[str, float]]:
    """The validations; ``images`` and ``iterations`` are those of one step, which may be an epoch."""
    per_iteration = average_bytes(parameters, FP32_BYTES, row.workers)
    for step, scalars in sorted(run.validations.items()):
        if row.protocol == 'ddp':  # mmengine's wrapper counts no bytes: a ring in every iteration
            sent = per_iteration * step * iterations
        else:
            ended = [r for i, r in run.rounds.items() if i < run.rounds_before[step]]
            sent = MB * sum(r['total_mb'] for r in ended)
        found: dict[str, float] = dict(step=step, images=step * images, bytes=round(sent))
        for key in ('cpu_sec', 'cpu_sec_mean', *SETS[row.results].metrics):
            if key in scalars:
                found[key] = round(scalars[key], 4)
        yield found


def _iterations_per_step(work_dir: Path) -> int:
    """1, or the length of an epoch where validations are counted by epochs."""
    lengths = [match for text in _texts(work_dir) for match in EPOCH.findall(text)]
    return int(lengths[-1]) if lengths else 1


def _ap_by_class(work_dir: Path) -> dict[str, float]:
    """Average precision by class in the last validation, from mmdet's table; empty if there is none."""
    found: dict[str, float] = {}
    for text in _texts(work_dir):
        found.update({name: float(ap) for name, _, _, _, ap in OF_CLASS.findall(text)})
    return found


def thinned_log(work_dir: Path) -> str:
    """The lines of a row's logs that tell its course, without folders of this machine."""
    lines = [line for text in _texts(work_dir) for line in text.splitlines() if KEPT.search(line)]
    return ''.join(f'{FOLDER.sub("", line)}\n' for line in lines)


def _texts(work_dir: Path) -> Iterator[str]:
    for log in sorted(work_dir.glob('*/*.log')):
        yield log.read_text()


def _versions() -> Iterator[tuple[str, str]]:
    yield 'python', platform.python_version()
    for package in PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:  # resist_mm need not be installed
            if package == 'resist_mm':
                from ...version import __version__

                yield package, __version__


def _machine() -> str:
    model = platform.machine()
    with open('/proc/cpuinfo') as file:
        model = next((line.split(':')[1].strip() for line in file if line.startswith('model name')), model)
    return f'{model}, {os.cpu_count()} cores, shared with other jobs; a thread for each worker'
