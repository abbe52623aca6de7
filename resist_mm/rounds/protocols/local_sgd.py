"""Local SGD."""

from __future__ import annotations

from resist_mm.partition import Assignment

from .protocol import RoundProtocol

__all__ = ['LocalSGD']


class LocalSGD(RoundProtocol):
    """Every worker trains the whole model, which is averaged once a round (Sec. 2.4).

    Lin et al., "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020, arXiv:1808.07217. Works with any model.
    """

    deals_blocks = False

    def assign(self, round_index: int) -> Assignment:
        """Every worker holds every block."""
        return Assignment.full(self.num_workers, self.parts.num_blocks)
