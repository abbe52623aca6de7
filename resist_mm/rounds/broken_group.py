"""What stands in the place of a process group that has lost a worker."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any, NoReturn

import torch.distributed as dist

from .whereabouts import LostWorker

__all__ = ['leave_group', 'stand_in']

NAME = 'resist_mm_broken'


def leave_group(store: dist.Store, error: BaseException | None) -> None:
    """Close all connections of the default process group, so that whoever waits for this worker gets an error.

    gloo closes them when the last reference to the group is gone. Rank and number of workers stay known, and every
    operation raises :class:`LostWorker`, until there is a new group.

    Args:
        store (Store): Any.
        error (BaseException, optional): What has happened: its frames refer to operations of the group.
    """
    if dist.get_backend() == NAME:
        return
    rank, num_workers = dist.get_rank(), dist.get_world_size()
    for part in _chain(error):
        traceback.clear_frames(part.__traceback__)
    dist.distributed_c10d._get_default_group().abort()
    dist.destroy_process_group()
    stand_in(store, rank, num_workers)


def stand_in(store: dist.Store, rank: int, num_workers: int) -> None:
    """Have rank and number of workers known while there is no process group."""
    if NAME.upper() not in dist.Backend.backend_list and NAME not in dist.Backend.backend_list:
        dist.Backend.register_backend(NAME, _make, devices=['cpu', 'cuda'])
    dist.init_process_group(NAME, store=dist.PrefixStore(NAME, store), rank=rank, world_size=num_workers)


class BrokenGroup(dist.ProcessGroup):
    """Knows who was there; all operations fail."""

    def getBackendName(self) -> str:
        return NAME


def _fail(*args: Any, **kwargs: Any) -> NoReturn:
    raise LostWorker('the process group has lost a worker in its last operation')


for _operation in (
    'allreduce',
    'allgather',
    '_allgather_base',
    'alltoall_base',
    'broadcast',
    'barrier',
    'send',
    'recv',
    'gather',
    'scatter',
    'reduce',
):
    setattr(BrokenGroup, _operation, _fail)


def _make(store: dist.Store, rank: int, size: int, timeout: Any) -> BrokenGroup:
    return BrokenGroup(rank, size)  # type: ignore[call-arg, arg-type]


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
