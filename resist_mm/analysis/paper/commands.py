"""The commands that reproduce a table of the paper, ready to run from the root of a clone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from .results import TABLES, Cell, title_of
from .training import Training
from .trainings import TRAININGS

__all__ = ['as_options', 'commands_of', 'print_commands']


def print_commands(tables: list[str], root: str) -> None:
    """Print the commands of some tables, each training once, below the paper's figures for it.

    Args:
        tables (list[str]): Of :data:`TABLES`.
        root (str): The folder of the work dirs.
    """
    printed: set[str] = set()
    for table in tables:
        print(f'# {title_of(table)}')
        for name in dict.fromkeys(cell.training for cell in TABLES[table]):
            cells = [cell for cell in TABLES[table] if cell.training == name]
            print(f'\n# {_expected(cells)}')
            if name in printed:
                print(f'# {root}/{name}: above')
                continue
            printed.add(name)
            for command in commands_of(TRAININGS[name], root):
                print(shlex.join(command))
        print()


def commands_of(training: Training, root: str) -> Iterator[list[str]]:
    """The commands of a training and of its tests, in their order.

    Args:
        training (Training): The training.
        root (str): The folder of the work dirs.
    """
    work_dir = f'{root}/{training.name}'
    config = f'configs/{training.config}'
    if training.members:
        folders = [f'{work_dir}/{member}' for member in range(training.members)]
        for member, folder in enumerate(folders):
            options = {**training.options, 'randomness.seed': member}
            yield ['python', 'tools/train.py', config, '--work-dir', folder, *_cfg_options(options)]
        checkpoints = [f'{folder}/{training.last_checkpoint}' for folder in folders]
        command = ['python', 'tools/test_ensemble.py', config, *checkpoints, '--work-dir', f'{work_dir}/ensemble']
        yield [*command, *_cfg_options(training.options)]
        return
    command = ['tools/dist_train.sh', config, str(training.workers), '--work-dir', work_dir]
    yield [*command, *_cfg_options(training.options)]
    for test in training.tests:
        command = ['python', 'tools/test.py', f'configs/{test.config}', f'{work_dir}/{training.last_checkpoint}']
        yield [*command, '--work-dir', f'{work_dir}/{test.folder}', *_cfg_options(test.options)]


def as_options(options: Mapping[str, Any]) -> list[str]:
    """Options as ``--cfg-options`` takes them, KEY=VALUE."""
    return [f'{key}={_as_text(value)}' for key, value in options.items()]


def _cfg_options(options: Mapping[str, Any]) -> list[str]:
    return ['--cfg-options', *as_options(options)] if options else []


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return f'[{",".join(map(_as_text, value))}]'
    if isinstance(value, tuple):
        return f'({",".join(map(_as_text, value))}{"," * (len(value) == 1)})'
    return str(value)


def _expected(cells: list[Cell]) -> str:
    """The labels of a training in the table, and the paper's figures."""
    figures = []
    for cell in cells:
        if cell.paper is not None:
            where = '' if cell.label == cells[0].label else f' ({cell.label.removeprefix(cells[0].label).strip()})'
            figures.append(f'{cell.quantity}{where} {cell.paper:g}')
    return cells[0].label + (f'; in the paper: {", ".join(figures)}' if figures else '')
