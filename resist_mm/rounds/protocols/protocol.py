"""What a protocol of rounds says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from resist_mm.partition import Assignment

from ..part import Part, Parts
from ..states import TravellingState

__all__ = ['RoundProtocol']


class RoundProtocol:
    """Says who holds what in each round, what travels, and what becomes of a mean.

    A subclass says at least who holds what (:meth:`assign`). All workers have a protocol of their own, and
    whatever it answers must be the same on all of them.

    Attributes:
        deals_blocks: Whether the blocks of partitioned stages are dealt out; if not, everything is shared.
        needs_reference: Whether parts keep their value of the round's start, as ``part.reference``.
        seed: Seed of whatever it draws; whoever runs it may set it before :meth:`set_up`.
    """

    deals_blocks = True
    needs_reference = False
    seed = 0

    def set_up(self, parts: Parts, num_workers: int) -> None:
        """Prepare for a model, once, before the first round.

        Raises:
            ValueError: If the protocol does not suit the model.
        """
        self.parts = parts
        self.num_workers = num_workers

    def assign(self, round_index: int) -> Assignment:
        """Who holds which blocks in a round, and what each worker counts for in means."""
        raise NotImplementedError

    def travelling(
        self, states: Sequence[TravellingState], round_index: int, whole: bool
    ) -> list[TravellingState]:
        """Which of the states travel at the end of a round; ``whole``: the model is made whole then."""
        return [state for state in states if state.travels(round_index, whole)]

    def begin_round(self, parts: Parts) -> None:
        """Called when a round begins, after the blocks have changed hands."""

    def on_mean(self, part: Part, mean: Tensor) -> None:
        """Called by whoever has computed the mean of a part, before it is delivered: the place of an outer step.

        For the shared part, and for blocks that every worker holds, all workers call it, alike. For any other
        block only its aggregating worker does.

        Args:
            part (Part): The part, with its value of before, and its ``reference`` if ``needs_reference`` is set.
            mean (Tensor): Its mean, of shape (numel,); to be changed in place. The exchange may still be
                refused: state that follows from it belongs into :meth:`commit`.
        """

    def commit(self) -> None:
        """Called when an exchange is accepted, before the next round begins. Must not fail."""

    def roll_back(self) -> None:
        """Called when an exchange is refused, of which :meth:`on_mean` may have been called for some parts."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold; the same on all workers when the model is whole."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave; called after :meth:`set_up`."""
