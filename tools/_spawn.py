"""A launcher that lets the other workers go on when one has ended (``ON_WORKER_LOSS=continue``), on one machine.

torchrun cannot: its agent ends all workers of a machine when one of them fails. This one keeps the store where the
workers meet, so that any of them may be lost, and notes there which have ended. It ends the others if one fails
before training has begun, or if a worker says that it cannot go on without one that is lost; then it starts
the job again, as torchrun does.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from datetime import timedelta
from pathlib import Path
from typing import Any, NoReturn

from torch.distributed import TCPStore
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

# resist_mm/rounds/membership.py; importing it would take seconds
CONTINUES_KEY = 'resist_mm/continues'
GONE_KEY = 'resist_mm/gone/{}'
POLL_SEC = 0.1
END_SEC = 30.0


class JobFailed(Exception):
    """The job has failed for good; ``failures`` are those of its last start."""

    def __init__(self, failures: dict[int, ProcessFailure]) -> None:
        super().__init__(f'{len(failures)} workers have failed')
        self.failures = failures


def run(args: Namespace, folder: Path) -> None:
    """Start workers until they have succeeded.

    Args:
        args (Namespace): torchrun's.
        folder (Path): For what workers say about their ends.

    Raises:
        JobFailed: When there is no restart left.
        SystemExit: If it is told to stop.
    """
    command = [sys.executable, '-u', args.training_script, *args.training_script_args]
    for start in range(args.max_restarts + 1):
        job = _Job(command, int(args.nproc_per_node), start, folder)
        failures = job.wait()
        if not failures:
            return
        print(f'Start {start} of the job has failed, of {args.max_restarts + 1}', file=sys.stderr, flush=True)
    raise JobFailed(failures)


class _Job:
    """One start of all workers."""

    def __init__(self, command: list[str], num_workers: int, start: int, folder: Path) -> None:
        self.store = TCPStore('127.0.0.1', 0, None, True, timeout=timedelta(seconds=60), wait_for_workers=False)
        self.folder = folder / str(start)
        self.folder.mkdir()
        self.processes: list[subprocess.Popen] = []
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        for rank in range(num_workers):
            env = dict(
                RANK=rank,
                LOCAL_RANK=rank,
                WORLD_SIZE=num_workers,
                LOCAL_WORLD_SIZE=num_workers,
                GROUP_RANK=0,
                MASTER_ADDR='127.0.0.1',
                MASTER_PORT=self.store.port,
                TORCHELASTIC_USE_AGENT_STORE=True,
                TORCHELASTIC_RESTART_COUNT=start,
                TORCHELASTIC_RUN_ID='resist_mm',
                TORCHELASTIC_ERROR_FILE=self._error_file(rank),
            )
            text = {key: str(value) for key, value in env.items()}
            self.processes.append(subprocess.Popen(command, env={**os.environ, **text}))
        self.failures: dict[int, ProcessFailure] = {}

    def wait(self) -> dict[int, ProcessFailure]:
        """Wait until all have ended; returns the failures, none if training is complete."""
        ends_at = float('inf')
        while alive := [rank for rank, process in enumerate(self.processes) if process.poll() is None]:
            for rank, process in enumerate(self.processes):
                if process.returncode and rank not in self.failures:
                    self._note(rank, process)
            if self._complete or self._hopeless:
                ends_at = min(ends_at, time.monotonic() + (END_SEC if self._complete or self._began else 0))
            if time.monotonic() > ends_at:
                self._end(alive)
            time.sleep(POLL_SEC)
        for rank, process in enumerate(self.processes):
            if process.returncode and rank not in self.failures:
                self._note(rank, process)
        return {} if self._complete else self.failures

    @property
    def _complete(self) -> bool:
        # whoever ends well has waited for all that were left
        return any(process.returncode == 0 for process in self.processes)

    @property
    def _began(self) -> bool:
        return self.store.check([CONTINUES_KEY])

    @property
    def _hopeless(self) -> bool:
        """Whether the job cannot go on."""
        if self.failures and not self._began:
            return True
        return any(_message(failure).startswith('LostWorker:') for failure in self.failures.values())

    def _note(self, rank: int, process: subprocess.Popen) -> None:
        self.store.set(GONE_KEY.format(rank), '')
        self.failures[rank] = ProcessFailure(rank, process.pid, process.returncode, str(self._error_file(rank)))
        how = f'was ended by signal {-process.returncode}' if process.returncode < 0 else 'has failed'
        print(f'Worker {rank} (process {process.pid}) {how}', file=sys.stderr, flush=True)

    def _error_file(self, rank: int) -> Path:
        return self.folder / f'{rank}.json'

    def _end(self, ranks: list[int], patience_sec: float = END_SEC) -> None:
        for rank in ranks:
            self.processes[rank].terminate()
        until = time.monotonic() + patience_sec
        while any(self.processes[rank].poll() is None for rank in ranks) and time.monotonic() < until:
            time.sleep(POLL_SEC)
        for rank in ranks:
            self.processes[rank].kill()
            self.processes[rank].wait()

    def _stop(self, number: int, frame: Any) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)
        self._end([rank for rank, process in enumerate(self.processes) if process.poll() is None])
        print(f'Failed: stopped by {signal.Signals(number).name}', file=sys.stderr, flush=True)
        sys.exit(1)


def _message(failure: ProcessFailure) -> str:
    return str(failure.message.get('message', '')) if isinstance(failure.message, dict) else ''
