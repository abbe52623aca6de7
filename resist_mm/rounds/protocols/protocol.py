"""The interface of protocols."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from resist_mm.partition import Assignment

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
    """

    deals_blocks = True
    states: Sequence[TravellingState] = ()
    needs_reference = False
    seed: int | None = None

    def set_up(self, parts: Parts, num_workers: int) -> None:
        """Prepare for a model; called once, before the first round.

        Raises:
            ValueError: If the protocol does not suit the model.
        """
        self.parts = parts
        self.num_workers = num_workers

    def set_workers(self, num_workers: int) -> None:
        """Go on with fewer workers (``on_worker_loss='continue'``); called between rounds. Must not fail."""
        self.num_workers = num_workers

    def assign(self, round_index: int) -> Assignment:
        """Who holds which blocks in a round, and the weight of each worker in means."""
        raise NotImplementedError

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
        holds; for any other block, only on its aggregating worker.

        Args:
            part (Part): The part, still with its old value, and with its ``reference`` if ``needs_reference``
                is set.
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
