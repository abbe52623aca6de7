"""Local SGD."""

from __future__ import annotations

from resist_mm.partition import Assignment

from .stepped import SteppedProtocol

__all__ = ['LocalSGD']


class LocalSGD(SteppedProtocol):
    """Every worker trains the whole model, which is averaged once a round (Sec. 2.4).

    Lin et al., "Don't Use Large Mini-Batches, Use Local SGD", ICLR 2020, arXiv:1808.07217. Works with any model.
    With an outer step this is DiLoCo (Douillard et al., arXiv:2311.08105).

    Args:
        outer (dict, optional): A step of SGD on the mean; see :class:`OuterStep`. Defaults to None: the mean.
    """

    deals_blocks = False

    def assign(self, round_index: int) -> Assignment:
        """Every worker holds every block."""
        return Assignment.full(self.num_workers, self.parts.num_blocks)
