"""Looks at means, and lets a protocol change them before they are delivered."""

from __future__ import annotations

from .health import all_finite, what_is_bad
from .part import Part, Parts
from .protocols import RoundProtocol
from .staging import StagedExchange

__all__ = ['Means']


class Means:
    """Looks at each mean as soon as it is there, then calls :meth:`RoundProtocol.on_mean`.

    One number that is not finite makes a sum so, whoever contributed it. So it is enough that some worker looks at
    each result: a block's aggregating worker, which may be its only holder, and of what all workers average each
    looks at one piece.

    Args:
        protocol (RoundProtocol): May change means.
        parts (Parts): Of this worker.

    Attributes:
        may_change: Whether the protocol changes means at all.
        finite: Whether all that this worker has looked at so far is.
    """

    def __init__(self, protocol: RoundProtocol, parts: Parts) -> None:
        self.protocol, self.parts = protocol, parts
        self.may_change = protocol.changes_means
        self.finite = True
        self._error: Exception | None = None

    def of_block(self, staged: StagedExchange, block: int) -> None:
        """The mean of a block is staged on this worker, which aggregates it; others are waiting for it.

        So an error is kept until :meth:`of_everybody`, and the block is delivered all the same.
        """
        try:
            self._look_and_call(staged, self.parts.blocks[block])
        except Exception as error:
            self._error = error

    def of_everybody(self, staged: StagedExchange) -> None:
        """The means of parts are staged on all workers, and all messages have arrived.

        Raises:
            Exception: What the protocol raises, or has raised of a block.
        """
        if self._error is not None:
            raise self._error
        for part in staged.averaged_parts():
            self._look_and_call(staged, part)

    def forget(self) -> None:
        """Forget what an exchange that is not accepted has left."""
        self.finite, self._error = True, None

    def _look_and_call(self, staged: StagedExchange, part: Part) -> None:
        if self._look(staged, part) and not staged.goes_back(part):
            self._call(part)
            if self.may_change and part.staged is not None:
                self._look(staged, part)  # the protocol may have made something else of it

    def _look(self, staged: StagedExchange, part: Part) -> bool:
        tensors = staged.to_be_looked_at(part)
        # the sum of large numbers may overflow: then look at each number
        finite = all_finite(tensors) or not what_is_bad((part.name, tensor) for tensor in tensors)
        self.finite = self.finite and finite
        return finite

    def _call(self, part: Part) -> None:
        if self.may_change and part.staged is not None:
            self.protocol.on_mean(part, part.staged)
