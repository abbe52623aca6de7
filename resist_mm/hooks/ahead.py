"""When workers begin to average the shared part, before a round ends."""

from __future__ import annotations

from mmengine.runner import Runner

from .cuts import whole_model_iters

__all__ = ['Ahead']


class Ahead:
    """Says in which iteration the shared part begins to be averaged.

    Not in a round that is going to end with the whole model, which is exact: what is averaged then would be
    discarded. If it ends so nevertheless, for a hook that is not known here, that costs no more than bytes.

    Args:
        runner (Runner): Of the run.
        overlap_iters (int): Iterations before the end of a round; 0: never.
        local_iters (int): Iterations of a round.
    """

    def __init__(self, runner: Runner, overlap_iters: int, local_iters: int) -> None:
        self._runner, self._overlap_iters = runner, overlap_iters
        self._at = local_iters - overlap_iters
        self._whole_at = whole_model_iters(runner) | {runner.max_iters}

    def is_due(self, done: int) -> bool:
        """Whether it is before the next iteration, if ``done`` of this round are."""
        if not self._overlap_iters or done != self._at:
            return False
        coming = range(self._runner.iter + 1, self._runner.iter + self._overlap_iters + 1)
        return self._whole_at.isdisjoint(coming)
