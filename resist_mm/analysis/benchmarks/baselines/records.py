"""What has been measured, as lines of JSON, so that an interrupted comparison goes on where it stopped."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ['Records']

FILE = 'records.jsonl'


class Records:
    """The records of a folder. Of two with the same key the later one counts.

    Args:
        folder (Path): Made if it does not exist.

    Raises:
        ValueError: If a line of the file is no record.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True)
        self.found: dict[tuple[str, tuple], dict[str, Any]] = {}
        lines = self.path.read_text().splitlines(keepends=True) if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            if not line.endswith('\n'):
                continue  # cut off while it was written
            try:
                record = json.loads(line)
                self.found[_key(record['kind'], record['key'])] = record
            except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(
                    f'{self.path}, line {number} is no record of this command ({type(error).__name__}: {error}): '
                    'remove the line, and what it was is measured again'
                ) from None

    def add(self, kind: str, key: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Append a record; it is on the disk when this returns."""
        record = dict(kind=kind, key=dict(key), **found)
        with self.path.open('ab+') as file:
            file.seek(0)
            file.truncate(file.read().rfind(b'\n') + 1)  # a line that was cut off
            file.write(json.dumps(record).encode() + b'\n')
            file.flush()
            os.fsync(file.fileno())
        self.found[_key(kind, key)] = record

    def get(self, kind: str, **key: Any) -> dict[str, Any] | None:
        """The record with that key, if there is one."""
        return self.found.get(_key(kind, key))

    def all(self, kind: str, **key: Any) -> list[dict[str, Any]]:
        """All records of a kind whose keys have these values."""
        return [
            record
            for (its_kind, _), record in self.found.items()
            if its_kind == kind and key.items() <= record['key'].items()
        ]


def _key(kind: str, key: Mapping[str, Any]) -> tuple[str, tuple]:
    return kind, tuple(sorted(key.items()))
