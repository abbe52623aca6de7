"""Which workers are still there, settled in the store of the process group, and a new group of those."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from resist_mm.exchange.process_group import group_timeout

from .broken_group import leave_group, stand_in
from .store_answers import Heartbeat, StoreAnswers
from .whereabouts import LostWorker, is_of_backend

__all__ = ['CONTINUES_KEY', 'GONE_KEY', 'LeftBehind', 'Membership']

PREFIX = 'resist_mm/members'
# what a launcher has to do with it: it keeps the store, and knows first which process has ended
CONTINUES_KEY = 'resist_mm/continues'
GONE_KEY = 'resist_mm/gone/{}'
NUMBERS_KEY = 'resist_mm/numbers'  # of the workers of a group that was formed after a loss
ACCEPTED = b'accepted'
SILENT_SEC = 10.0
POLL_SEC = 0.02
MEET_SEC = 10.0
logger = logging.getLogger(__name__)
_counter = itertools.count()


class LeftBehind(LostWorker):
    """The others have gone on without this worker."""


class Membership:
    """The workers of a job by number, of which some may be gone, and what they decide together.

    The numbers are the ranks at the start; ranks change with each new process group. What all have to decide
    alike is a key of the store that the first one sets (compare and set):

    - whether an exchange counts. The last vote may have reached some workers only, when one is lost in it. Whoever
      has the result sets the key; who has not waits for the key, and keeps everything until then.
    - or who is left to repeat it: everybody who has come here, once all others are gone. A worker is gone if its
      launcher says so, or if it has not set its heartbeat for ten seconds; if it comes back, it is told so.

    So no two workers ever go on with different values. If the store is lost, all raise :class:`LostWorker`.

    Raises:
        ValueError: If there is a backend other than gloo: NCCL ends a process whose operation fails.
    """

    def __init__(self) -> None:
        config = str(dist.get_backend_config())
        if 'nccl' in config:
            raise ValueError(
                f"on_worker_loss='continue' needs the backend gloo, but the process group has {config!r}. Over "
                "NCCL a worker ends with the operation that fails: use on_worker_loss='stop' and restarts"
            )
        # on worker 0 this may be the server, which ends with it
        self._of_first_group = dist.distributed_c10d._get_default_store()
        self._store = self._of_first_group.clone()  # type: ignore[attr-defined]
        self._launchers = _root(self._store)
        self._timeout = group_timeout()
        self.numbers = list(range(dist.get_world_size()))
        if self._of_first_group.check([NUMBERS_KEY]):  # an engine before this one has lost workers
            self.numbers = json.loads(self._of_first_group.get(NUMBERS_KEY))
        self._me = self.numbers[dist.get_rank()]
        self.generation = 0
        self._prefix = f'{PREFIX}/{next(_counter)}'  # engines are made in the same order on all workers
        self._answers = StoreAnswers(POLL_SEC)
        self._beat = Heartbeat(self._store.clone(), f'{self._prefix}/beat/{self._me}')
        self._answers.ask(lambda: self._launchers.set(CONTINUES_KEY, '1'))

    @property
    def rank(self) -> int:
        """The rank of this worker."""
        return self.numbers.index(self._me)

    def close(self) -> None:
        """Stop the heartbeat."""
        self._beat.stop()

    def accept(self, exchange: int) -> None:
        """All workers have all results of an exchange: it counts.

        Raises:
            LeftBehind: If the others have decided to repeat it without this worker.
        """
        decided = self._answers.ask(
            lambda: self._store.compare_set(self._decision(exchange), '', ACCEPTED.decode())
        )
        if decided != ACCEPTED:
            self._check_member(json.loads(decided))
        if exchange > 0 and self.numbers[0] == self._me:  # everybody is past that one
            self._answers.ask(lambda: self._store.delete_key(self._decision(exchange - 1)))

    @contextmanager
    def last_vote(self, exchange: int) -> Iterator[None]:
        """The body is the last vote on an exchange; whoever has its result calls :meth:`accept` if it counts.

        Raises:
            LostWorker: If the exchange has to be repeated.
        """
        try:
            yield
        except Exception as error:
            if not is_of_backend(error):
                raise
            if self.survivors(exchange, error) is not None:
                raise LostWorker(f'exchange {exchange}: a worker is missing in the last vote') from error

    def survivors(self, exchange: int, error: BaseException | None = None) -> list[int] | None:
        """An operation has failed: leave the process group, wait until all others have come or are gone, decide.

        Args:
            exchange (int): Its number.
            error (BaseException, optional): What the operation has raised. Defaults to None.

        Returns:
            list[int] or None: The ranks of those that are left, in the group so far; None: the exchange counts.

        Raises:
            LeftBehind: If the others go on without this worker.
            LostWorker: If the store is lost.
        """
        leave_group(self._store, error)
        decided = self._answers.ask(lambda: self._wait_for_decision(exchange), patient=True)
        if decided == ACCEPTED:
            return None
        left = json.loads(decided)
        self._check_member(left)
        return [rank for rank, number in enumerate(self.numbers) if number in left]

    def regroup(self, ranks: Sequence[int]) -> bool:
        """Form a process group of those that are left, the new default group.

        Returns:
            bool: Whether it has been formed; if not, another worker is lost, and :meth:`survivors` comes next.
        """
        self.numbers = [self.numbers[rank] for rank in ranks]
        self.generation += 1
        dist.destroy_process_group()
        try:
            dist.init_process_group(
                'gloo',
                store=dist.PrefixStore(f'{self._prefix}/group {self.generation}', self._store.clone()),
                rank=self.rank,
                world_size=len(self.numbers),
                timeout=min(self._timeout, timedelta(seconds=MEET_SEC)),
            )
            dist.barrier()
        except Exception as error:
            if not is_of_backend(error):
                raise
            self._fail_to_meet(error)
            return False
        dist.distributed_c10d._get_default_store().set(NUMBERS_KEY, json.dumps(self.numbers))
        group = dist.distributed_c10d._get_default_group()._get_backend(torch.device('cpu'))
        group.options._timeout = self._timeout
        group.set_timeout(self._timeout)
        return True

    def _fail_to_meet(self, error: Exception) -> None:
        if not dist.is_initialized():
            dist.distributed_c10d._world.group_count = 0  # which names groups: the same on all workers
            stand_in(self._store, self.rank, len(self.numbers))
        logger.warning('the workers that are left have not met: %s', error)

    def _wait_for_decision(self, exchange: int) -> bytes:
        self._store.set(self._here(exchange, self._me), '')
        last_beats: dict[int, tuple[bytes, float]] = {}
        while True:
            if self._store.check([self._decision(exchange)]):
                return self._store.get(self._decision(exchange))
            self._answers.progress()
            missing = [
                n for n in self.numbers if n != self._me and not self._store.check([self._here(exchange, n)])
            ]
            if all(self._is_gone(number, last_beats) for number in missing):
                left = [number for number in self.numbers if number not in missing]
                return self._store.compare_set(self._decision(exchange), '', json.dumps(left))
            time.sleep(POLL_SEC)

    def _is_gone(self, number: int, last_beats: dict[int, tuple[bytes, float]]) -> bool:
        if self._launchers.check([GONE_KEY.format(number)]):
            return True
        key = f'{self._prefix}/beat/{number}'
        beat = self._store.get(key) if self._store.check([key]) else b''
        if number not in last_beats or last_beats[number][0] != beat:
            last_beats[number] = beat, time.monotonic()
        return time.monotonic() > last_beats[number][1] + SILENT_SEC

    def _check_member(self, left: Sequence[int]) -> None:
        if self._me not in left:
            raise LeftBehind(
                f'the other workers have gone on without this one, number {self._me} at the start: it was silent '
                'for too long'
            )

    def _decision(self, exchange: int) -> str:
        return f'{self._prefix}/{self.generation}/exchange {exchange}'

    def _here(self, exchange: int, number: int) -> str:
        return f'{self._prefix}/{self.generation}/exchange {exchange}/{number}'


def _root(store: dist.Store) -> dist.Store:
    """The store without prefixes, which is the one that a launcher knows."""
    while isinstance(store, dist.PrefixStore):
        store = store.underlying_store
    return store
