"""Schedulers of a run that resumes with another length, another schedule or another learning rate."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable
from typing import Any

__all__ = ['CannotResume', 'Schedules']

# what changes while a scheduler steps, or does not matter
PROGRESS = {'_global_step', 'last_step', '_last_value', 'verbose', 'anneal_func'}
MEASURED = {'best', 'num_bad_epochs', 'cooldown_counter'}


class CannotResume(ValueError):
    """A run cannot go on from a checkpoint with this config. The message says what to change."""


class Schedules:
    """Compares the schedulers that a config gives with those of a checkpoint, and replays the former.

    mmengine loads the whole state of a scheduler, with its length, so that a changed config has no effect.

    Args:
        schedulers (list or dict[str, list]): The runner's, just built.

    Raises:
        CannotResume: By :meth:`compare`.
    """

    def __init__(self, schedulers: Any) -> None:
        self._lists = schedulers if isinstance(schedulers, dict) else {'': schedulers or []}
        self.changes: list[str] = []
        self._initial: list[tuple[dict[str, Any], ...]] = []

    def compare(self, saved: Any) -> None:
        """Find the differences, in words, in ``changes``; prepare to replay if there are any.

        Args:
            saved (list or dict[str, list]): ``param_schedulers`` of the checkpoint. The end of a schedule that
                depends on measurements is changed in it.

        Raises:
            CannotResume: If such a schedule would have to be replayed.
        """
        saved_lists = saved if isinstance(saved, dict) else {'': saved}
        for name, schedulers in self._lists.items():
            states = saved_lists.get(name, [])
            if len(states) != len(schedulers):
                self.changes.append(f'{len(states)} -> {len(schedulers)} schedulers')
            for scheduler, state in zip(schedulers, states, strict=False):
                self._compare_one(scheduler, state)
        if not self.changes:
            return
        for scheduler in self._all():
            if _measures(scheduler):
                raise CannotResume(
                    f'param_scheduler: {type(scheduler).__name__} depends on the measurements of the run so far, '
                    f'so that the schedule cannot be rebuilt, but it has changed: {"; ".join(self.changes)}. '
                    'Resume with the number of workers, the batch size and the param_scheduler of the run before, '
                    'or begin a new run from its weights: load_from=CHECKPOINT without --resume'
                )
        # the checkpoint's will be loaded over them
        self._initial = [
            tuple(_initial_values(group, scheduler.param_name) for group in scheduler.optimizer.param_groups)
            for scheduler in self._all()
        ]

    def replay(self, epochs: int, epoch_iters: int, iters: int) -> None:
        """Bring the schedulers, and what they set, to a position of the run.

        To be called after :meth:`compare` has found changes, and the optimizer has been loaded.

        Args:
            epochs (int): Number of epochs that are done.
            epoch_iters (int): Iterations of each.
            iters (int): Number of iterations that are done in the epoch that follows.
        """
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of steps of the scheduler before those of the optimizer
            for scheduler, values in zip(self._all(), self._initial, strict=True):
                for group, initial in zip(scheduler.optimizer.param_groups, values, strict=True):
                    group.update(initial)
                    group[scheduler.param_name] = initial[f'initial_{scheduler.param_name}']
            for scheduler in self._all():  # as they are built, the first step is the last thing they do
                scheduler._global_step = scheduler.last_step = -1
                scheduler.step()
            by_iter = [scheduler for scheduler in self._all() if not scheduler.by_epoch]
            by_epoch = [scheduler for scheduler in self._all() if scheduler.by_epoch]
            for epoch in range(epochs + 1):
                for _ in range(epoch_iters if epoch < epochs else iters):
                    for scheduler in by_iter:
                        scheduler.step()
                for scheduler in by_epoch if epoch < epochs else ():
                    scheduler.step()

    def _all(self) -> list[Any]:
        return [scheduler for schedulers in self._lists.values() for scheduler in schedulers]

    def _compare_one(self, scheduler: Any, saved: dict[str, Any]) -> None:
        ignored = PROGRESS | (MEASURED if _measures(scheduler) else set())
        now = scheduler.state_dict()
        keys = sorted({key for key in {*now, *saved} - ignored if now.get(key) != saved.get(key)})
        if _measures(scheduler) and keys == ['end']:
            saved['end'] = now['end']  # nothing before depends on it
        elif keys:
            how = ', '.join(f'{key} {_in_words(saved.get(key))} -> {_in_words(now.get(key))}' for key in keys)
            self.changes.append(f'{type(scheduler).__name__} ({how})')


def _measures(scheduler: Any) -> bool:
    return getattr(scheduler, 'need_val_args', False)


def _initial_values(group: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: group[key] for key in (f'{kind}_{name}' for kind in ('initial', 'max', 'min')) if key in group}


def _in_words(value: Any) -> str:
    if isinstance(value, Counter):
        value = sorted(value.elements())
    if isinstance(value, Iterable) and not isinstance(value, str | dict):
        values = list(dict.fromkeys(value)) if all(isinstance(v, int | float) for v in value) else list(value)
        return ', '.join(map(str, values[:3])) + (', ...' if len(values) > 3 else '')
    return str(value)
