"""Where each worker is, so that an error can name the one that is missing.

Every worker notes its round and phase in the store of the process group, which takes microseconds and waits for
nobody. Nothing is read until a collective operation has failed: then the others' notes tell who has not got there.
``monitored_barrier`` would tell as well, but only gloo has it, and it makes all workers wait once more in a round.

A NCCL operation that times out is not an exception: NCCL's watchdog ends the process. There a timer says what is
known shortly before. (Untested: it needs two GPUs.)
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch.distributed as dist

from resist_mm.exchange.process_group import group_timeout

__all__ = ['LostWorker', 'enter', 'missing_workers_named']

PREFIX = 'resist_mm/where'
ANSWER_SEC = 5
WARN_AT = 0.95
OF_BACKENDS = ('gloo', 'nccl', 'connection closed', 'connection reset', 'broken pipe', 'pair closure')
LOST = ', where it lost another worker'
logger = logging.getLogger(__name__)

_here = 'the start'
_timer: threading.Timer | None = None


class LostWorker(RuntimeError):
    """Another worker has ended, or has not come in time."""


def enter(phase: str, round_index: int | None = None, waits: bool = False) -> None:
    """Note where this worker is; nothing is done without a process group.

    Args:
        phase (str): What it does there, as a noun.
        round_index (int, optional): Index of the round.
        waits (bool): Whether it waits for other workers there. Defaults to False.
    """
    global _here, _timer
    _here = phase if round_index is None else f'round {round_index}, {phase}'
    if _timer is not None:
        _timer.cancel()
        _timer = None
    if not _distributed():
        return
    _note(_here)
    if waits and 'nccl' in dist.get_backend():
        _timer = threading.Timer(WARN_AT * group_timeout().total_seconds(), lambda: logger.error(_explanation()))
        _timer.daemon = True
        _timer.start()


@contextmanager
def missing_workers_named() -> Iterator[None]:
    """Name round, phase and missing worker if a collective operation fails in the body.

    Raises:
        LostWorker: In place of the backend's error, which is its cause.
    """
    try:
        yield
    except LostWorker:
        raise
    except Exception as error:
        if not _distributed():
            raise
        if not is_of_backend(error):
            name = type(error).__name__
            _in_time(lambda: _note(f'{_here}, where it failed ({name})'))
            raise
        explanation = _explanation()
        _in_time(lambda: _note(_here + LOST))
        raise LostWorker(explanation) from error


def _explanation() -> str:
    elsewhere = [
        f'worker {rank} is missing, last seen: {where}'
        for rank, where in _others().items()
        if where != _here and not where.endswith(LOST)
    ]
    missing = '; '.join(elsewhere) or 'a worker that has got there as well is missing'
    timeout = f'{group_timeout().total_seconds():g} s (env_cfg.dist_cfg.timeout)'
    me = f'worker {dist.get_rank()} of {dist.get_world_size()}'
    return f'{_here}: {missing}. It has ended, or {timeout} were too short for it (said by {me})'


def _others() -> dict[int, str]:
    """The notes of the other workers; worker 0, which keeps them, may be the one that does not answer."""
    found: dict[int, str] = {}

    def ask() -> None:
        for rank in range(dist.get_world_size()):
            key = f'{PREFIX}/{rank}'
            if rank != dist.get_rank():
                known = store.check([key])
                notes[rank] = store.get(key).decode() if known else 'not at all'
        found.update(notes)

    notes: dict[int, str] = {}
    store = dist.distributed_c10d._get_default_store()
    _in_time(ask)
    return dict(found) or {0: 'it keeps the list of where workers are, and does not answer'}


def _in_time(action: Callable[[], None]) -> None:
    """Do something with the store, or give up.

    If worker 0 is there but silent, a question waits for good, and whatever else is done with the store behind it.
    """
    thread = threading.Thread(target=_quietly, args=(action,), daemon=True)
    thread.start()
    thread.join(ANSWER_SEC)


def _quietly(action: Callable[[], None]) -> None:
    try:
        action()
    except (RuntimeError, OSError):  # the store is gone
        return


def _note(where: str) -> None:
    try:
        dist.distributed_c10d._get_default_store().set(f'{PREFIX}/{dist.get_rank()}', where)
    except (RuntimeError, OSError):  # worker 0 is gone; the next exchange finds out
        logger.debug('worker 0 keeps no notes any more')


def is_of_backend(error: Exception) -> bool:
    """Whether an error comes from the network; gloo raises plain RuntimeErrors, which name its source files."""
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(word in text for word in OF_BACKENDS)


def _distributed() -> bool:
    return dist.is_available() and dist.is_initialized()
