"""What happens to a round in which the numbers of a worker went bad."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .agreement import tell_all
from .arguments import check_choice, check_count
from .health import BadNumbers, shortened

__all__ = ['BadRounds', 'in_words']


class BadRounds:
    """Decides whether training stops or goes on without the workers whose numbers are bad, and counts.

    All workers have one, and come to the same decisions.

    Args:
        policy (str): 'stop', or 'drop': such workers are left out.
        most (int): With 'drop', number of bad rounds in a row that stops training.

    Attributes:
        count: Number of rounds so far of which a worker was left out.
        in_a_row: How many of the last rounds that were.
        left_out: Of the last round: by worker, what was wrong.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(self, policy: str = 'stop', most: int = 3) -> None:
        check_choice('bad_numbers', policy, 'stop', 'drop')
        check_count('max_bad_rounds', most)
        self.policy, self.most = policy, most
        self.count = self.in_a_row = self._in_a_row_before = 0
        self.left_out: dict[int, list[str]] = {}

    @property
    def drops(self) -> bool:
        """Whether training goes on without a worker whose numbers are bad."""
        return self.policy == 'drop'

    def judge(self, round_index: int, complaints: Sequence[str], can_go_back: bool = True) -> dict[int, list[str]]:
        """Learn from all workers what is wrong; to be called by all of them.

        Args:
            round_index (int): The round.
            complaints (Sequence[str]): Of this worker; may be empty.
            can_go_back (bool): Whether what this worker had at the start of the round is finite. Defaults to True.

        Returns:
            dict[int, list[str]]: By worker that is to be left out, what is wrong; empty if nobody complains.

        Raises:
            BadNumbers: On all workers, if training has to stop.
        """
        of_workers = tell_all((list(complaints), can_go_back))
        bad = {worker: of_worker for worker, (of_worker, _) in enumerate(of_workers) if of_worker}
        why = ''
        if not bad:
            return {}
        if not self.drops:
            why = "bad_numbers='drop' would go on without such a worker"
        elif len(bad) == len(of_workers):
            why = 'no worker is left to go on with' if len(bad) > 1 else 'there is no other worker to go on with'
        elif not all(of_workers[worker][1] for worker in bad):
            why = 'what they had at the start of the round is not finite either'
        elif self.in_a_row + 1 >= self.most:
            why = self._too_many
        if why:
            raise self._stop(round_index, bad, why)
        return bad

    def check_means(self, round_index: int, finite: bool) -> None:
        """Refuse means that are not finite although all that went into them is; alike on all workers.

        Raises:
            BadNumbers: If they are not.
        """
        if not finite:
            raise BadNumbers(
                f'round {round_index}: a mean is not finite although the numbers of all workers are: they are too '
                'large to be added, or the protocol (an outer step?) has made that of them. Nothing of this round '
                'is saved'
            )

    def settle(self, left_out: Mapping[int, list[str]]) -> None:
        """Count a round that has been accepted, without the given workers."""
        self._in_a_row_before = self.in_a_row
        self.left_out = dict(left_out)
        self.count += bool(left_out)
        self.in_a_row = self.in_a_row + 1 if left_out else 0

    def add(self, round_index: int, left_out: Mapping[int, list[str]]) -> None:
        """Count workers that were left out after the exchange, in what followed it; alike on all workers.

        Raises:
            BadNumbers: If training has to stop.
        """
        if left_out and not self.left_out:
            self.count += 1
            self.in_a_row = self._in_a_row_before + 1
        self.left_out = {
            worker: [*self.left_out.get(worker, []), *left_out.get(worker, [])]
            for worker in sorted({*self.left_out, *left_out})
        }
        if self.in_a_row >= self.most:
            raise self._stop(round_index, self.left_out, self._too_many)

    def state_dict(self) -> dict[str, int]:
        """The counts, to keep in checkpoints."""
        return dict(count=self.count, in_a_row=self.in_a_row)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue the counts of a run that is resumed; an empty state is that of a new run."""
        self.count, self.in_a_row = state.get('count', 0), state.get('in_a_row', 0)

    @property
    def _too_many(self) -> str:
        return f'the last {self.most} rounds were bad (max_bad_rounds={self.most})'

    @staticmethod
    def _stop(round_index: int, bad: Mapping[int, Sequence[str]], why: str) -> BadNumbers:
        return BadNumbers(
            f'round {round_index}: {in_words(bad)}. Training stops: {why}. Nothing of this round is saved; the '
            'last checkpoint is the one to resume from'
        )


def in_words(bad: Mapping[int, Sequence[str]]) -> str:
    """Who is bad, and why, in a line."""
    return '; '.join(f'worker {worker}: {shortened(complaints)}' for worker, complaints in bad.items())
