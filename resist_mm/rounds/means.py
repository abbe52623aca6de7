"""Lets a protocol change means before they are delivered."""

from __future__ import annotations

from collections.abc import Iterable

from .part import Part, Parts
from .protocols import RoundProtocol

__all__ = ['Means']


class Means:
    """Calls :meth:`RoundProtocol.on_mean`, at the right moment.

    Args:
        protocol (RoundProtocol): May change means.
        parts (Parts): Of this worker.

    Attributes:
        may_change: Whether the protocol changes means at all.
    """

    def __init__(self, protocol: RoundProtocol, parts: Parts) -> None:
        self.protocol, self.parts = protocol, parts
        self.may_change = type(protocol).on_mean is not RoundProtocol.on_mean
        self._error: Exception | None = None

    def of_block(self, block: int) -> None:
        """The mean of a block is staged on this worker, which aggregates it; others are waiting for it.

        So an error is kept until :meth:`of_everybody`, and the block is delivered all the same.
        """
        try:
            self._call([self.parts.blocks[block]])
        except Exception as error:
            self._error = error

    def of_everybody(self, parts: Iterable[Part]) -> None:
        """The means of parts are staged on all workers, and all messages have arrived.

        Raises:
            Exception: What the protocol raises, or has raised of a block.
        """
        if self._error is not None:
            raise self._error
        self._call(parts)

    def forget(self) -> None:
        """Forget the error of an exchange that has been rolled back."""
        self._error = None

    def _call(self, parts: Iterable[Part]) -> None:
        for part in parts if self.may_change else ():
            if part.staged is not None:
                self.protocol.on_mean(part, part.staged)
