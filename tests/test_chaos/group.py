"""Starts the workers of a job, hits them, and ends them as a launcher does."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch.distributed as dist

from resist_mm.analysis.benchmarks.shaped_links import Link
from resist_mm.rounds.membership import GONE_KEY

from .job import PAUSE_SEC, work
from .links import break_link
from .plans import ALL, GOES_ON, JOBS, Fault, Plan
from .shared import Shared

__all__ = ['Attempt', 'run_group']

FORK = multiprocessing.get_context('fork')
POLL_SEC = 0.002
KILL_AFTER_SEC = 5.0  # as torchrun, which waits longer
SIGNALS = dict(
    kill=signal.SIGKILL, term=signal.SIGTERM, stop=signal.SIGSTOP, late=signal.SIGSTOP, pause=signal.SIGSTOP
)


@dataclass
class Attempt:
    """How one start of a job ended.

    Attributes:
        exit_codes: By worker.
        endings: By worker, what it has written about its end; empty if it was killed.
        by_itself: By worker, whether it ended without the launcher's doing.
        resumed: The iteration it began with; None if it did not get that far.
        reached: The iterations that have been begun.
        saved: The iteration of the last checkpoint that was completed in it; 0: none.
        fired: The faults whose point was reached.
        began_sec: How long it took to the first iteration; 0 if there was none.
        end_sec: How long after the first fault (if that is a slow link: the first failure) all had ended.
        iterations: By worker, how many it has begun.
        hung: Workers that had not ended at the limit.
    """

    exit_codes: list[int | None]
    endings: list[dict[str, Any]]
    by_itself: list[bool]
    resumed: int | None
    reached: int
    saved: int
    fired: list[int]
    began_sec: float
    end_sec: float
    iterations: list[int]
    hung: list[int] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all workers have finished training."""
        return all(code == 0 for code in self.exit_codes)


def run_group(
    plan: Plan,
    attempt: int,
    folder: Path,
    timeout_sec: float,
    resume: str | bool,
    links: list[Link] | None = None,
    **options: Any,
) -> Attempt:
    """Run the workers of a job until all have ended."""
    shared, num_workers = Shared(), JOBS[plan.job].workers
    address = f'{links[0].address if links else "127.0.0.1"}:{_free_port()}'
    began = time.monotonic()
    processes = [
        FORK.Process(
            target=work,
            args=(rank, plan, attempt, folder, shared, timeout_sec, address, resume),
            kwargs=dict(options, link=links[rank] if links else None),
        )
        for rank in range(num_workers)
    ]
    for process in processes:
        process.start()
    launcher = _Launcher(plan, attempt, processes, shared, links)
    launcher.store_at = address
    launcher.wait_for_all()
    ended = time.monotonic()
    endings = []
    for rank in range(num_workers):
        note = folder / f'{attempt}.{rank}.json'
        endings.append(json.loads(note.read_text()) if note.exists() else {})
    fired = [i for i in range(len(plan.faults)) if shared.reached[i]]
    # a slow link fails nobody at once
    hits = [shared.reached[i] / 1000 for i in fired if plan.faults[i].kind != 'slow']
    first_hit = min(hits, default=launcher.first_failure or began)
    resumed = [value - 1 for value in shared.resumed[:num_workers] if value]
    if len(set(resumed)) > 1:
        raise RuntimeError(f'the workers have resumed from different iterations: {resumed}')
    return Attempt(
        [process.exitcode for process in processes],
        endings,
        launcher.by_itself,
        resumed[0] if resumed else None,
        max(shared.iteration[:num_workers]),
        shared.saved,
        fired,
        max(0.0, launcher.first_iteration - began),
        ended - first_hit,
        list(shared.iteration[:num_workers]),
        launcher.hung,
    )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(('', 0))
        return found.getsockname()[1]


class _Launcher:
    """Watches workers until all have ended."""

    def __init__(
        self, plan: Plan, attempt: int, processes: list, shared: Shared, links: list[Link] | None
    ) -> None:
        self.plan, self.attempt, self.processes = plan, attempt, processes
        self.shared, self.links = shared, links
        self.by_itself = [True] * len(processes)
        self.hung: list[int] = []
        self._stopped: dict[int, tuple[str, float]] = {}
        self._hit: set[int] = set()
        self._ending_since = 0.0
        self._left_alone = False
        self._told: set[int] = set()
        self.store_at = ''
        self.first_iteration = self.first_failure = 0.0

    def wait_for_all(self) -> None:
        limit = time.monotonic() + self.plan.limit_sec
        while alive := [rank for rank, process in enumerate(self.processes) if process.is_alive()]:
            now = time.monotonic()
            if not self.first_iteration and max(self.shared.iteration):
                self.first_iteration = now
            self._hit_from_outside(now)
            self._continue_paused(now)
            self._end_others(alive, now)
            if self.plan.job == GOES_ON and 0 in alive:
                self._tell_who_is_gone()
            if now > limit:
                self.hung = [rank for rank in alive if rank not in self._stopped]
                for rank in alive:
                    self._end(rank, signal.SIGKILL)
                    self.processes[rank].join()
            time.sleep(POLL_SEC)

    def _hit_from_outside(self, now: float) -> None:
        for i, fault in enumerate(self.plan.faults):
            reached = self.shared.reached[i]
            if i in self._hit or not reached or fault.attempt != self.attempt:
                continue
            if now * 1000 < reached + fault.delay_sec * 1000:
                continue
            self._hit.add(i)
            self._act(fault, now)

    def _act(self, fault: Fault, now: float) -> None:
        if fault.kind in ('cut', 'slow'):
            assert self.links is not None
            break_link(self.links, fault.worker, fault.kind)
        if fault.kind not in SIGNALS:
            return
        for rank in range(len(self.processes)) if fault.worker == ALL else [fault.worker]:
            if fault.kind in ('stop', 'late', 'pause'):
                self._stopped[rank] = (fault.kind, now)
            if not fault.inside:
                self._send(rank, SIGNALS[fault.kind])

    def _continue_paused(self, now: float) -> None:
        for rank, (kind, since) in list(self._stopped.items()):
            if kind == 'pause' and now > since + PAUSE_SEC:
                self._send(rank, signal.SIGCONT)
                del self._stopped[rank]

    def _end_others(self, alive: list[int], now: float) -> None:
        """As torchrun: when one has failed, SIGTERM to the others, and SIGKILL later."""
        down = [rank for rank in alive if self._stopped.get(rank, ('pause', 0))[0] != 'pause']
        if down == alive:  # the others have ended
            for rank in down:
                kind, _ = self._stopped.pop(rank)
                if kind == 'late':
                    self._left_alone = True
                    self._send(rank, signal.SIGCONT)
                else:
                    self._end(rank, signal.SIGKILL)
            return
        if self._left_alone:
            return
        if self._ending_since and now > self._ending_since + KILL_AFTER_SEC:
            for rank in alive:
                if rank not in self._stopped:
                    self._end(rank, signal.SIGKILL)
        failed = any(process.exitcode for process in self.processes)
        self.first_failure = self.first_failure or failed * now
        if failed and self.plan.ends_others and not self._ending_since:
            self._ending_since = now
            for rank in alive:
                if rank not in self._stopped:  # that one is dealt with once the others have ended
                    self._end(rank, signal.SIGTERM)

    def _tell_who_is_gone(self) -> None:
        """As tools/_spawn.py, but the store is that of worker 0."""
        gone = {rank for rank, process in enumerate(self.processes) if not process.is_alive()} - self._told
        host, port = self.store_at.split(':')
        for rank in gone:
            dist.TCPStore(host, int(port), None, False).set(GONE_KEY.format(rank), '')
        self._told |= gone

    def _end(self, rank: int, number: int) -> None:
        self.by_itself[rank] = False
        self._send(rank, number)

    def _send(self, rank: int, number: int) -> None:
        process = self.processes[rank]
        if process.is_alive():
            os.kill(process.pid, number)
