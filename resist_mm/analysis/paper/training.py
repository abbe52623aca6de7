"""A training, described by a config and the changes to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ['Options', 'SeparateTest', 'Training']

Options = Mapping[str, Any]


@dataclass(frozen=True)
class SeparateTest:
    """A test of the last checkpoint that is not part of the training.

    Attributes:
        folder: Its work dir, in that of the training.
        config: Path of the config, in ``configs/``.
        options: What is changed in it, by key.
    """

    folder: str
    config: str
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """A training whose results are in the paper.

    Attributes:
        name: Name of the training and of its work dir: model, protocol, workers, batch, length, data.
        config: Path of the config, in ``configs/``.
        workers: Number of workers.
        options: What is changed in the config, by key: ``--cfg-options``.
        tests: Tests of the last checkpoint.
        members: Number of separately trained networks of an ensemble; 0 if it is not an ensemble.
        last_checkpoint: Name of the last checkpoint, if there are separate tests.
    """

    name: str
    config: str
    workers: int
    options: Options = field(default_factory=dict)
    tests: tuple[SeparateTest, ...] = ()
    members: int = 0
    last_checkpoint: str = ''

    def fits(self, config: str, workers: int, cfg: Mapping[str, Any]) -> bool:
        """Whether a run has this config, number of workers, and options.

        Args:
            config (str): Name of the run's config file, without ``.py``.
            workers (int): The run's number of workers.
            cfg (Mapping): The run's config, with everything that was changed in it.
        """
        named = Path(self.config).stem == config and self.workers == workers
        return named and all(_says(cfg, key, value) for key, value in self.options.items())


def _says(cfg: Any, key: str, value: Any) -> bool:
    *path, last = key.split('.')
    if last == '_delete_':  # an instruction, which the merged config no longer has
        return True
    try:
        for name in path:
            cfg = cfg[int(name)] if isinstance(cfg, list) else cfg[name]
        found = cfg[last]
    except (IndexError, KeyError, TypeError):
        return False
    if isinstance(found, list | tuple) and isinstance(value, list | tuple):
        return list(found) == list(value)
    return found == value
