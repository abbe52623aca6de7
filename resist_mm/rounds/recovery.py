"""Training goes on without a worker that is lost."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from resist_mm.exchange import Transport
from resist_mm.partition import Assignment

from .copies import Copies, Restored
from .membership import Membership
from .part import Parts
from .round_start import RoundStart
from .staging import StagedExchange
from .states import TravellingState
from .whereabouts import LostWorker

__all__ = ['Loss', 'Recovery']

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loss:
    """What a group of workers has lost.

    Attributes:
        round: The round in which the workers were lost.
        lost: Their numbers, which are the ranks at the start of the run.
        left: Those of the others, by their ranks from now on.
        restored: The blocks whose copies are used.
    """

    round: int
    lost: tuple[int, ...]
    left: tuple[int, ...]
    restored: tuple[int, ...]

    def __str__(self) -> str:
        of_lost = 'worker' + 's' * (len(self.lost) > 1) + ' ' + ', '.join(map(str, self.lost))
        of_left = f'{len(self.left)} worker{"s" * (len(self.left) > 1)}'
        blocks = ', '.join(map(str, self.restored)) or 'none'
        if not self.lost:
            return f'Round {self.round}: connections broke, but no worker is lost; {of_left} repeat the exchange'
        return (
            f'Round {self.round} goes on without {of_lost} (numbered from the start of the run), with {of_left}. '
            f'What is lost is that round of {of_lost}; blocks taken from copies: {blocks}'
        )


class Recovery:
    """Lets an engine go on when workers are lost (``on_worker_loss='continue'``).

    Every worker keeps a copy of blocks that another one holds alone; see :class:`Copies`. If the group breaks in
    an exchange, it is rolled back; the workers that are left form a new group, put the copies in the place of what
    the lost worker held, and repeat the exchange. In means the lost worker has no share. What that cannot bring
    back is a block that lost workers alone have held and kept: then all raise :class:`LostWorker`, as with 'stop'.

    Args:
        rank (int): This worker.
        parts (Parts): Its parts.
        states (Sequence[TravellingState]): Whatever travels.
        copies_on_host (bool): Whether copies are in the memory of the host.

    Attributes:
        losses: Those so far.
        under_way: Whether the next exchange is that which follows a loss.
    """

    def __init__(
        self, rank: int, parts: Parts, states: Sequence[TravellingState], copies_on_host: bool = False
    ) -> None:
        self.membership = Membership()
        self.copies = Copies(rank, parts, states, copies_on_host)
        self.losses: list[Loss] = []
        self.under_way = False
        self._restored: set[int] = set()  # blocks, until an exchange has been accepted

    def source(self, rank: int, undone: RoundStart | None) -> Restored | RoundStart | None:
        """What this worker brings into an exchange; None: what it has."""
        mine = {block for block in self._restored if self.copies.keepers[block] == rank}
        return Restored(self.copies, mine, undone) if mine else undone

    def begin(self, dealt: Assignment) -> None:
        """A round begins from the whole model."""
        if not dealt.is_full:
            self.copies.begin(dealt)

    def stage(self, staged: StagedExchange, transport: Transport, whole: bool) -> None:
        """Everything has arrived: keep copies for the next round."""
        if not whole and not staged.plan.new.is_full:
            self.copies.stage(staged, transport)

    @contextmanager
    def last_vote(self, round_index: int) -> Iterator[None]:
        """See :meth:`Membership.last_vote`."""
        with self.membership.last_vote(round_index):
            yield

    def commit(self) -> None:
        """The exchange is accepted."""
        self.copies.commit()
        self._restored, self.under_way = set(), False

    def regroup(
        self, round_index: int, assignment: Assignment, error: BaseException | None
    ) -> tuple[Assignment, list[int]]:
        """Form a group of the workers that are left.

        Args:
            round_index (int): The round, whose exchange has failed.
            assignment (Assignment): Who held which blocks in it.
            error (BaseException, optional): With which it has failed.

        Returns:
            tuple[Assignment, list[int]]: Who has which blocks now, copies included; and by rank from now on, the
            rank of each worker so far.

        Raises:
            LostWorker: If a block is lost, or this worker is taken for lost, or the store is.
        """
        before = self.membership.numbers
        ranks = list(range(assignment.num_workers))
        formed = False
        while not formed:
            left = self.membership.survivors(round_index, error)
            if left is None:
                raise LostWorker(f'round {round_index}: the other workers have gone on while the store was silent')
            ranks = [ranks[rank] for rank in left]
            formed = self.membership.regroup(left)
        remaining, new = self._remaining(assignment, ranks)
        lost = tuple(number for number in before if number not in self.membership.numbers)
        loss = Loss(round_index, lost, tuple(self.membership.numbers), tuple(sorted(new)))
        self.losses.append(loss)
        self._restored |= new
        self.under_way = True
        self.copies.rank = self.membership.rank
        if self.membership.rank == 0:
            logger.warning('%s', loss)
        return remaining, ranks

    def _remaining(self, assignment: Assignment, ranks: Sequence[int]) -> tuple[Assignment, set[int]]:
        """Who has which blocks, by new rank, and which of them are copies."""
        new_rank = {rank: i for i, rank in enumerate(ranks)}
        kept_by = self.copies.keepers or [None] * assignment.num_blocks
        self.copies.keepers = [None if keeper is None else new_rank.get(keeper) for keeper in kept_by]
        blocks = [list(assignment.blocks(rank)) for rank in ranks]
        missing = set(range(assignment.num_blocks)) - {block for of_worker in blocks for block in of_worker}
        for block in sorted(missing):
            keeper = self.copies.keepers[block]
            if keeper is None:
                raise LostWorker(
                    f'block {block} is lost: the workers that held it are gone, and the one that kept a copy. The '
                    'last checkpoint is the one to resume from'
                )
            blocks[keeper].append(block)
        weights = None if assignment.weights is None else [assignment.weights[rank] for rank in ranks]
        return Assignment(blocks, assignment.num_blocks, weights), missing
