"""Starts the workers of a benchmark: real processes on this machine."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import pickle
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from .shaped_links import Link, enter_namespace

__all__ = ['add_worker_arguments', 'backend_of', 'describe_machine', 'device_of', 'least_blocks', 'run_workers']

TIMEOUT = timedelta(minutes=30)
ROOT = Path(__file__).parents[3]  # what to import resist_mm from


def add_worker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where the workers run."""
    parser.add_argument('--workers', type=int, default=4, metavar='S', help='number of workers; default: 4')
    parser.add_argument(
        '--device',
        choices=['cpu', 'cuda'],
        default='cpu',
        help='cuda: over NCCL if there is a GPU for each worker, else they share over gloo; default: cpu, gloo',
    )
    parser.add_argument(
        '--link',
        metavar='RATE',
        help='give each worker a network namespace and a link of this rate, such as 1gbit (Linux, root)',
    )


def backend_of(device: str, num_workers: int) -> str:
    """The backend of torch.distributed for that number of workers on this machine."""
    return 'nccl' if device == 'cuda' and torch.cuda.device_count() >= num_workers else 'gloo'


def device_of(device: str, rank: int) -> torch.device:
    """The device of a worker; GPUs go round."""
    return torch.device(f'cuda:{rank % torch.cuda.device_count()}' if device == 'cuda' else 'cpu')


def run_workers(
    function: Callable[..., Any],
    num_workers: int,
    *args: Any,
    backend: str = 'gloo',
    links: Sequence[Link] = (),
) -> list:
    """Call a function in ``num_workers`` processes and return their results, by rank.

    Each computes with one thread. The processes are forked from a server that has
    imported the function's module once.

    Args:
        function (Callable): A function of a module.
        num_workers (int): Number of workers.
        *args: Arguments of the function.
        backend (str): Of the process group. Defaults to 'gloo'.
        links (Sequence[Link]): The network of each worker. Defaults to (): this
            machine's own.

    Raises:
        RuntimeError: If a worker fails; with its traceback.
    """
    # the server does not know this process's sys.path
    paths = [str(ROOT), os.environ.get('PYTHONPATH')]
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, paths)), OMP_NUM_THREADS='1')
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload([function.__module__])
    processes: list[Any] = []
    pipes: list[Connection] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            for rank in range(num_workers):
                ours, theirs = context.Pipe(duplex=False)
                link = links[rank] if links else None
                place = (rank, num_workers, f'file://{folder}/rendezvous', backend, link)
                processes.append(context.Process(target=_worker, args=(function, place, theirs, args)))
                processes[-1].start()
                theirs.close()
                pipes.append(ours)
            return _results(pipes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _results(pipes: list[Connection]) -> list:
    by_rank: dict[int, Any] = {}
    while len(by_rank) < len(pipes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in by_rank]
        for pipe in multiprocessing.connection.wait(waiting):
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                result, error = pipes[rank].recv()
            except EOFError:
                result, error = None, 'it was killed; is there enough memory?'
            if error is not None:
                raise RuntimeError(f'worker {rank} failed:\n{error}')
            by_rank[rank] = pickle.loads(result)
    return [by_rank[rank] for rank in range(len(pipes))]


def _worker(function: Callable[..., Any], place: tuple, pipe: Connection, args: tuple) -> None:
    rank, num_workers, rendezvous, backend, link = place
    try:
        if link is not None:
            enter_namespace(link)
        torch.set_num_threads(1)
        dist.init_process_group(
            backend, init_method=rendezvous, rank=rank, world_size=num_workers, timeout=TIMEOUT
        )
        result = function(*args)
        dist.barrier()
        # pickled by value: a tensor's shared memory would go with the process
        pipe.send((pickle.dumps(result), None))
        dist.destroy_process_group()
    except KeyboardInterrupt:
        sys.exit(130)
    except BaseException:
        pipe.send((None, traceback.format_exc()))


def describe_machine() -> str:
    """The machine and the versions, in a line."""
    cpu = 'unknown CPU'
    info = Path('/proc/cpuinfo')
    if info.is_file():
        models = [line.split(':')[1].strip() for line in info.read_text().splitlines() if 'model name' in line]
        cpu = models[0] if models else cpu
    gpu = f', {torch.cuda.device_count()} x {torch.cuda.get_device_name()}' if torch.cuda.is_available() else ''
    python = '.'.join(map(str, sys.version_info[:3]))
    return f'{os.cpu_count()} cores, {cpu}{gpu}, {os.uname().sysname}; Python {python}, torch {torch.__version__}'


def least_blocks(summary: dict[str, Any]) -> str:
    """What a title says of --min-blocks: nothing if it was not given."""
    least = summary['min_blocks']
    return '' if least is None else f', at least {least} blocks a worker'
