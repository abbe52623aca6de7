"""What a run that is resumed was trained with."""

from __future__ import annotations

import os.path as osp
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from resist_mm.checkpoint import newest_whole, read_checkpoint
from resist_mm.checkpoint.loading import trusts

from ..config_hooks import custom_hooks, hook_name, type_name
from .convert import RESIST_HOOK, hook_options
from .edits import stages_of
from .literals import settings_of

__all__ = ['Resumed', 'look_at_run']


class Resumed(NamedTuple):
    """The options of a run that is resumed.

    Attributes:
        options: The stages and the arguments of the hook, as for :func:`to_resist`; empty: nothing is known.
        source: Where they were found; empty: nowhere.
    """

    options: dict[str, Any]
    source: str = ''

    def kept(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """The options that the command line leaves as they were."""
        left_out = set(asked)
        if 'stages' in self._changed(asked):
            left_out.add('min_blocks')  # it was for the other stages
        return {key: value for key, value in self.options.items() if key not in left_out}

    def notes(self, asked: Mapping[str, Any]) -> list[str]:
        """Sentences about what is kept, and about each option that was another."""
        if not self.source:
            return ['nothing is known of the run that is resumed: options are those of a new run']
        kept = ', '.join(f'{key}={value!r}' for key, value in self.kept(asked).items())
        return [
            f'kept from the run that is resumed ({self.source}): {kept or "nothing"}',
            *(
                f'{key}: {asked[key]!r}, as asked; the run that is resumed had {self.options[key]!r}'
                for key in self._changed(asked)
            ),
        ]

    def _changed(self, asked: Mapping[str, Any]) -> list[str]:
        return [key for key, value in self.options.items() if key in asked and _same(asked[key]) != _same(value)]


def look_at_run(cfg: Config, resume: str, work_dir: str, hook: str) -> Resumed:
    """Find the stages and the hook's options of the run that is resumed. No code is run.

    They are read from the checkpoint, or, where it does not tell, from the config that mmengine has put beside it.
    Without the path of a checkpoint, from the config in the work dir, or from the newest checkpoint there.

    Args:
        cfg (Config): The config that is converted.
        resume (str): The path of a checkpoint, or 'auto'.
        work_dir (str): Folder of the run.
        hook (str): The protocol's hook; options of another one are left out.

    Raises:
        FileNotFoundError: If there is no such checkpoint.
        CheckpointError: If it is damaged or not safe to read.
    """
    if '://' in resume:
        return Resumed({})
    folder = work_dir if resume == 'auto' else osp.dirname(resume)
    file = osp.join(folder, osp.basename(cfg.filename or ''))
    path: str | Path | None = resume
    if resume == 'auto':
        path = None if osp.isfile(file) else newest_whole(work_dir, trust=trusts())[0]
    text, source = '', ''
    if path is not None:
        text, source = _config_in(read_checkpoint(path, 'cpu', trusts())), str(path)
    if not text and osp.isfile(file):
        with open(file, encoding='utf-8') as opened:
            text, source = opened.read(), file
    return Resumed(_options(settings_of(text), hook), source) if text else Resumed({})


def _config_in(checkpoint: Any) -> str:
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    text = meta.get('cfg') if isinstance(meta, dict) else None
    return text if isinstance(text, str) else ''


def _options(settings: dict[str, Any], hook: str) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if type_name(hook) == type_name(RESIST_HOOK) and (stages := stages_of(settings)):
        options['stages'] = stages
    for old in custom_hooks(settings):
        if hook_name(old) == type_name(hook):
            options.update((key, old[key]) for key in hook_options(hook) if key in old)
    return options


def _same(value: Any) -> Any:
    """Equal for what means the same: a stage and a list of it, a tuple and a list."""
    return [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else value
