"""Real gloo processes some of which may be killed, with a launcher that keeps the store and says who is gone."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from resist_mm.rounds.membership import GONE_KEY

from .workers import PRELOADED

__all__ = ['run_job']

LIMIT_SEC = 120


def run_job(function: Callable, num_workers: int, *args: Any, timeout_sec: float = 60, tells: bool = True) -> list:
    """Call ``function(rank, *args)`` in so many processes; their results by rank, None for one that was killed.

    Args:
        function: May kill its process.
        num_workers: Number of workers.
        args: Of the function.
        timeout_sec: Of the process group.
        tells: Whether the launcher says who is gone.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    store = dist.TCPStore('127.0.0.1', 0, None, True, wait_for_workers=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = [
            context.Process(
                target=_work, args=(function, rank, num_workers, store.port, timeout_sec, folder, args)
            )
            for rank in range(num_workers)
        ]
        for process in processes:
            process.start()
        limit, told = time.monotonic() + LIMIT_SEC, set()
        while any(process.is_alive() for process in processes) and time.monotonic() < limit:
            gone = {rank for rank, process in enumerate(processes) if not process.is_alive()}
            for rank in (gone - told) if tells else ():
                store.set(GONE_KEY.format(rank), '')
            told |= gone
            time.sleep(0.01)
        hung = [rank for rank, process in enumerate(processes) if process.is_alive()]
        for process in processes:
            process.kill()
            process.join()
        assert not hung, f'the workers {hung} hang'
        results: list[Any] = [None] * num_workers
        for rank in range(num_workers):
            if (folder / str(rank)).exists():
                results[rank], error = pickle.loads((folder / str(rank)).read_bytes())
                assert error is None, f'worker {rank}:\n{error}'
    return results


def _work(
    function: Callable, rank: int, num_workers: int, port: int, timeout_sec: float, folder: Path, args: tuple
) -> None:
    torch.set_num_threads(1)
    result = error = None
    try:
        store = dist.TCPStore('127.0.0.1', port, None, False, timeout=timedelta(seconds=timeout_sec))
        timeout = timedelta(seconds=timeout_sec)
        dist.init_process_group('gloo', store=store, rank=rank, world_size=num_workers, timeout=timeout)
        result = function(rank, *args)
        if dist.get_backend() == 'gloo':  # it is not left behind
            dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        error = traceback.format_exc()
    (folder / str(rank)).write_bytes(pickle.dumps((result, error)))
