"""The interface of protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from resist_mm.partition import Assignment

from ..agreed_speeds import AgreedSpeeds
from ..part import Part, Parts
from ..states import TravellingState

__all__ = ['RoundProtocol']


class RoundProtocol:
    """Decides who holds what in each round, what travels, and what happens to a mean.

    A subclass implements at least :meth:`assign`. Every worker has its own instance, and all instances must give
    the same answers.

    Attributes:
        deals_blocks: Whether the blocks of partitioned stages are dealt out; if not, everything is shared.
        states: What travels beside the engine's own states, such as the momentum of an outer step.
        needs_reference: Whether parts keep their value from the start of the round, as ``part.reference``.
        seed: Seed of its random choices. None until :meth:`set_up`: the hooks take the seed of the run, the
            engine alone takes 0.
        hands_by_speed: Whether :meth:`assign` looks at ``speeds``.
        iters_by_speed: Whether slower workers train fewer iterations, so that all rounds last equally long. A
            worker counts in means as much as it has iterations.
        speed_interval: Number of rounds after which workers agree anew on their speeds.
        speeds: The speeds of workers, if one of the two needs them; made by :meth:`set_up`.
    """

    deals_blocks = True
    states: Sequence[TravellingState] = ()
    needs_reference = False
    seed: int | None = None
    hands_by_speed = False
    iters_by_speed = False
    speed_interval = 5
    speeds: AgreedSpeeds | None = None
    _iterations: Sequence[int] | None = None  # of each worker in this round, once it is trained

    @property
    def changes_means(self) -> bool:
        """Whether :meth:`on_mean` may do anything; if not, no room for that is needed."""
        return type(self).on_mean is not RoundProtocol.on_mean

    def set_up(self, parts: Parts, num_workers: int) -> None:
        """Prepare for a model; called once, before the first round.

        Raises:
            ValueError: If the protocol does not suit the model.
        """
        self.parts = parts
        self.num_workers = num_workers
        if self.hands_by_speed or self.iters_by_speed:
            self.speeds = AgreedSpeeds(num_workers, self.speed_interval)

    def set_workers(self, left: Sequence[int]) -> None:
        """Go on with fewer workers (``on_worker_loss='continue'``); called before an exchange. Must not fail.

        Args:
            left (Sequence[int]): By rank from now on, the rank of each worker so far.
        """
        self.num_workers = len(left)
        if self.speeds is not None:
            self.speeds.begin_anew(self.num_workers)

    def assign(self, round_index: int) -> Assignment:
        """Who holds which blocks in a round, and the weight of each worker in means."""
        raise NotImplementedError

    def iterations(self, round_index: int, local_iters: int) -> list[int]:
        """How many iterations each worker trains in a round, the same answer on all workers.

        Args:
            round_index (int): Index of the round, which must not have been exchanged yet.
            local_iters (int): Iterations of the fastest worker.
        """
        speeds = self.speeds.current if self.speeds is not None and self.iters_by_speed else None
        if speeds is None:
            return [local_iters] * self.num_workers
        dealt = self.assign(round_index)
        hands = [len(dealt.blocks(worker)) for worker in range(self.num_workers)]
        return speeds.iterations(hands, local_iters)

    def expect(self, iterations: Sequence[int]) -> None:
        """Learn how many iterations each worker has trained once the round ends; called before :meth:`weigh`."""
        self._iterations = iterations if len(set(iterations)) > 1 else None

    def trained(self, worker: int, round_index: int, iterations: Sequence[int], seconds: float) -> None:
        """Called before an exchange.

        Args:
            worker (int): This worker.
            round_index (int): Index of the round.
            iterations (Sequence[int]): How many iterations each worker has trained, the same on all workers.
            seconds (float): Seconds that this worker has trained.
        """
        self.expect(iterations)
        if self.speeds is not None:
            self.speeds.see(iterations[worker], seconds, len(self.assign(round_index).blocks(worker)))

    def weigh(self, assignment: Assignment) -> Assignment:
        """The assignment of the round that ends, with the weights that workers have in means.

        Where they trained different numbers of iterations, these are the weights: as batches are equally large,
        every sample counts the same. With ``overlap_iters`` it is called when the average begins, too, and should
        give the same then.
        """
        iterations, self._iterations = self._iterations, None
        return assignment if iterations is None else assignment.weighted(iterations)

    def travelling(
        self, states: Sequence[TravellingState], round_index: int, whole: bool
    ) -> list[TravellingState]:
        """Which of the states travel at the end of a round, the same on all workers. Must not communicate.

        ``whole`` says that the model is made whole.
        """
        return [state for state in states if state.travels(round_index, whole)]

    def begin_round(self, parts: Parts) -> None:
        """Called when a round begins, after the blocks have changed hands. Must not fail: others go on."""

    def on_mean(self, part: Part, mean: Tensor) -> None:
        """Called where the mean of a part was computed, before it is delivered: the place for an outer step.

        It is called on all workers, with the same values, for the shared part and for blocks that every worker
        holds; for any other block, only on its aggregating worker. Not for a block that only workers with bad
        numbers held (``bad_numbers='drop'``): it stays as it was.

        Args:
            part (Part): The part, still with its old value, and with its ``reference`` if ``needs_reference``
                is set. With ``overlap_iters`` the mean is of earlier values of the shared part.
            mean (Tensor): Its mean, of shape (numel,), to be changed in place. The exchange may still be rolled
                back, so state of the protocol must not be updated before :meth:`commit`.
        """

    def commit(self) -> None:
        """Called when an exchange is accepted, before the next round begins. Must not fail."""

    def roll_back(self) -> None:
        """Called when an exchange is rolled back; :meth:`on_mean` may have been called for some of the parts."""

    def state_dict(self) -> dict[str, Any]:
        """State to keep in checkpoints; the same on all workers when the model is whole."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned; called after :meth:`set_up`."""
