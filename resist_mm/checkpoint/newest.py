"""The checkpoint to resume from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from .reading import BrokenCheckpoint, read_checkpoint

__all__ = ['newest_whole']

# epoch_12.pth, iter_300.pth; the best one has no optimizer
NUMBERED = re.compile(r'(?!best_).*?(\d+)\.pth')


def newest_whole(
    work_dir: str | Path, folders: Iterable[str | Path] = (), trust: bool = False, after_ns: int = 0
) -> tuple[Path | None, list[str]]:
    """Find the newest checkpoint that can be read whole.

    The one that ``last_checkpoint`` names comes first, unless another one has a higher number and is not older: a
    run may be killed between writing a checkpoint and naming it. The others follow by time.

    Args:
        work_dir (str or Path): Of the run.
        folders (Iterable): Where else its checkpoints may be.
        trust (bool): As in :func:`read_checkpoint`.
        after_ns (int): Only checkpoints that were written later, in nanoseconds of the file system's clock.
            Defaults to 0: all.

    Returns:
        tuple[Path or None, list[str]]: The checkpoint, and what is wrong with each newer one.

    Raises:
        UntrustedCheckpoint: If a newer one can be read only when it is trusted.
    """
    passed_over = []
    for path in _candidates(Path(work_dir), [Path(folder) for folder in folders]):
        if path.stat().st_mtime_ns <= after_ns:
            continue
        try:
            checkpoint = read_checkpoint(path, 'cpu', trust)
        except (BrokenCheckpoint, OSError) as error:
            passed_over.append(str(error))
            continue
        if isinstance(checkpoint, dict) and {'meta', 'message_hub'} <= checkpoint.keys():
            return path, passed_over
        passed_over.append(f'{path} holds only weights')
    return None, passed_over


def _candidates(work_dir: Path, folders: list[Path]) -> list[Path]:
    named = _named_last(work_dir)
    folders = [work_dir, *folders, *([named.parent] if named else [])]
    found = {path.resolve(): path for folder in folders for path in folder.glob('*.pth')}
    numbers = {path: _number(path) for path in found.values() if path.is_file()}

    def order(path: Path) -> tuple[int, int, int]:
        time, number = path.stat().st_mtime_ns, numbers[path]
        if named is None or path == named:
            first = path == named
            return int(first), time, number
        later = number > _number(named) >= 0 and time >= named.stat().st_mtime_ns
        return 2 if later else 0, time, number

    if named is not None:
        named = found.get(named.resolve(), named)
        numbers[named] = _number(named)
    return sorted((path for path in numbers if numbers[path] >= 0 or path == named), key=order, reverse=True)


def _named_last(work_dir: Path) -> Path | None:
    """What ``last_checkpoint`` names; beside it if the folder has been moved; None if that is not there."""
    record = work_dir / 'last_checkpoint'
    if not record.is_file():
        return None
    named = Path(record.read_text().strip())
    return next((path for path in (named, work_dir / named.name) if path.is_file()), None)


def _number(path: Path) -> int:
    match = NUMBERED.fullmatch(path.name)
    return int(match[1]) if match else -1
