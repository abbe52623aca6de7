"""The table and the pictures of a set of results, from its records alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .detections import LEAST_SCORE
from .rows import ROWS, SETS

__all__ = ['LINK_GBIT', 'read_records', 'seconds_of', 'table_of', 'write_report']

LINK_GBIT = 1.0
HEADER = '<!-- Written by tools/analysis_tools/reproduce.py; the records beside it hold everything. -->'
SHEETS_NOTE = (
    f'left: annotations, without difficult objects; right: detections with a score from {LEAST_SCORE:.0%}'
)
SEEDS_NOTE = '; other seeds with their --work-dir and randomness.seed, as in the records'
NOTE = (
    'All rows train on the same number of images. GB (decimal): sent by all workers together; for data-parallel '
    'training computed, for a ring all-reduce in every iteration. With several seeds: mean ± standard deviation.'
)
CPU_NOTE = (
    'CPU seconds are those of the busiest worker, for training and exchanges; wall-clock seconds mean little on a '
    'shared machine.'
)
TIME_NOTE = (
    f'Time in the pictures is modelled: the CPU seconds, measured, and what a worker has sent over a link of '
    f'{LINK_GBIT:g} Gbit/s of its own, computed; nothing overlaps.'
)


def write_report(results: str, out: Path) -> None:
    """Write ``README.md`` and the pictures of a set of results.

    Args:
        results (str): Of :data:`SETS`.
        out (Path): Its folder, which holds the records.
    """
    records = read_records(results, out)
    if not records:
        return
    lines = [HEADER, f'# {SETS[results].title}', '', *table_of(results, records), '', NOTE, '']
    if SETS[results].note:
        lines += [SETS[results].note, '']
    if SETS[results].drawn_course:
        lines += [CPU_NOTE, '', *_draw_course(results, records, out), '', TIME_NOTE, '']
    lines += [*_sheets(records, out), *_how(results, records)]
    (out / 'README.md').write_text('\n'.join(lines).rstrip() + '\n')


def _draw_course(results: str, records: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """Draw the first metric by bytes and by time; returns the lines that show the pictures."""
    from ..plots import plot_course

    first_metric, metric_name = next(iter(SETS[results].metrics.items()))
    courses = [
        dict(
            label=record['label'],
            protocol=record['protocol'],
            gigabytes=[point['bytes'] / 1e9 for point in record['course']],
            minutes=[seconds_of(record, point) / 60 for point in record['course']],
            values=[point[first_metric] for point in record['course']],
        )
        for record in records
    ]
    lines = []
    for by, axis in (('gigabytes', 'GB sent by all workers'), ('minutes', 'minutes, modelled')):
        stem = 'bytes' if by == 'gigabytes' else 'time'
        for suffix in ('png', 'svg'):
            plot_course(courses, by, axis, metric_name, SETS[results].title, str(out / f'by_{stem}.{suffix}'))
        lines.append(f'![{metric_name} by {stem}](by_{stem}.png)')
    return lines


def read_records(results: str, out: Path) -> list[dict[str, Any]]:
    """The records of a set, in the order of its rows."""
    paths = [out / f'{row.name}.json' for row in ROWS if row.results == results]
    return [json.loads(path.read_text()) for path in paths if path.is_file()]


def seconds_of(record: Mapping[str, Any], point: Mapping[str, float]) -> float:
    """Modelled seconds of training up to a validation: CPU seconds, and a worker's bytes over a link."""
    on_link = point['bytes'] / record['workers'] * 8 / (LINK_GBIT * 1e9)
    return point.get('cpu_sec', 0.0) + on_link


def table_of(results: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The lines of a table in Markdown, with one line for the seeds of a row together."""
    metrics = SETS[results].metrics
    header = ['run', 'seeds, with logs', *(f'{name}, end' for name in metrics.values())]
    header += [f'{next(iter(metrics.values()))}, best', 'images', 'GB sent']
    has_cpu_sec = any(record['cpu_sec'] for record in records)
    header += ['CPU s of a worker'] * has_cpu_sec
    classes = SETS[results].classes
    lines = [header + [f'AP {name}' for name in classes]]
    for label in dict.fromkeys(record['label'] for record in records):
        of_label = [record for record in records if record['label'] == label]
        line = [label, ', '.join(f'[{record["seed"]}]({record["name"]}.log.gz)' for record in of_label)]
        line += [_mean([record['course'][-1][key] for record in of_label]) for key in metrics]
        first = next(iter(metrics))
        line.append(_mean([max(point[first] for point in record['course']) for record in of_label]))
        line.append(f'{of_label[0]["images"]:,}')
        line.append(_mean([record['bytes'] / 1e9 for record in of_label]))
        line += [_mean([record['cpu_sec'] or 0 for record in of_label], 0)] * has_cpu_sec
        line += [_mean([record['ap_by_class'][name] for record in of_label], 3) for name in classes]
        lines.append(line)
    lines.insert(1, ['---'] * len(lines[0]))
    return [f'| {" | ".join(line)} |' for line in lines]


def _mean(values: Sequence[float], digits: int | None = None) -> str:
    mean = statistics.mean(values)
    shown = f'{mean:.{digits}f}' if digits is not None else f'{mean:#.4g}' if mean < 1000 else f'{mean:.0f}'
    if len(values) == 1:
        return shown
    deviation = statistics.stdev(values)
    return f'{shown} ± {deviation:#.2g}' if 0 < deviation < 9.95 else f'{shown} ± {deviation:.0f}'


def _sheets(records: Sequence[Mapping[str, Any]], out: Path) -> list[str]:
    """The pictures of detections, where there are any."""
    lines = []
    for record in records:
        if (out / f'{record["name"]}.jpg').is_file():
            lines += [f'{record["label"]}, {SHEETS_NOTE}:', '']
            lines += [f'![detections]({record["name"]}.jpg)', '']
    return lines


def _how(results: str, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The commands, and on what they ran."""
    first = records[0]
    versions = ', '.join(f'{name} {number}' for name, number in first['versions'].items())
    commands: dict[str, str] = {}
    for record in records:
        commands.setdefault(record['label'], record['command'])
    return [
        f'Ran on {first["machine"]}; {versions}. `{SETS[results].data}` says where the images are.',
        '',
        '```bash',
        f'python tools/analysis_tools/reproduce.py {results}  # all rows',
        f'# by hand{SEEDS_NOTE if len(records) > len(commands) else ""}:',
        *commands.values(),
        '```',
    ]
