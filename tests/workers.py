"""Starts real gloo processes for tests."""

from __future__ import annotations

import multiprocessing
import pickle
import queue
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

TIMEOUT_SEC = 600
# what the server of processes imports once, before it forks the first worker
PRELOADED = ['torch', 'mmengine.runner', 'resist_mm.hooks', 'resist_mm.models', 'tests.toy']
PRELOADED += ['mmdet.apis', 'mmdet.datasets', 'mmdet.engine', 'mmdet.evaluation', 'mmdet.models']


def run_workers(function: Callable, num_workers: int, *args: Any, group_timeout_sec: float = TIMEOUT_SEC) -> list:
    """Call ``function(*args)`` in ``num_workers`` processes and return their results, by rank.

    The workers are forked from a server that has imported torch and mmengine once. An
    exception in one of them fails the test, with its traceback.
    """
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(PRELOADED)
    with tempfile.TemporaryDirectory() as folder:
        results = context.Queue()
        processes = [
            context.Process(
                target=_worker, args=(function, rank, num_workers, folder, results, args, group_timeout_sec)
            )
            for rank in range(num_workers)
        ]
        for process in processes:
            process.start()
        by_rank: dict[int, Any] = {}
        failures = []
        for _ in processes:
            try:
                rank, result, error = results.get(timeout=TIMEOUT_SEC)
            except queue.Empty:
                failures.append(f'after {TIMEOUT_SEC} s only the workers {sorted(by_rank)} were done')
                break
            by_rank[rank] = None if result is None else pickle.loads(result)
            if error is not None:
                failures.append(f'worker {rank}:\n{error}')
                break  # the others wait for this one
        for process in processes:
            if failures:
                process.terminate()
            process.join()
    assert not failures, '\n'.join(failures)
    return [by_rank[rank] for rank in range(num_workers)]


def _worker(
    function: Callable,
    rank: int,
    num_workers: int,
    folder: str,
    results: Any,
    args: tuple,
    group_timeout_sec: float,
) -> None:
    try:
        torch.set_num_threads(1)
        dist.init_process_group(
            'gloo',
            init_method=f'file://{Path(folder) / "rendezvous"}',
            rank=rank,
            world_size=num_workers,
            timeout=timedelta(seconds=group_timeout_sec),
        )
        # pickled by value: a tensor's shared memory would disappear with the process
        results.put((rank, pickle.dumps(function(*args)), None))
        dist.barrier()
        dist.destroy_process_group()
    except BaseException:
        results.put((rank, None, traceback.format_exc()))
