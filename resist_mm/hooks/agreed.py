"""What all workers have to begin a run with alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.rounds.agreement import agree, digest

from .cuts import dataloader_length
from .moving_average import HookedAverage
from .of_runner import model_of
from .resumed import next_round, resumed_seed

__all__ = ['agree_on_start', 'in_words']

# of the hook; the seed first, since the protocol has it too
ARGUMENTS = (
    'seed',
    'local_iters',
    'iters_by_speed',
    'speed_interval',
    'protocol',
    'codec',
    'momentum_restart_interval',
    'keep_shared_momentum',
    'bn',
    'bn_batches',
    'bn_interval',
    'bad_numbers',
    'max_bad_rounds',
    'max_loss_ratio',
    'on_worker_loss',
    'overlap_iters',
)


def agree_on_start(runner: Runner, hook: Hook, averages: Sequence[HookedAverage]) -> None:
    """Compare what the workers begin with.

    Args:
        runner (Runner): Of the run.
        hook (Hook): The hook of rounds.
        averages (Sequence[HookedAverage]): The moving averages of the run.

    Raises:
        RuntimeError: On all workers, with the name of what differs.
    """
    of_averages = [average.what_must_agree() for average in averages]
    agree(
        {
            'the index of the round to begin with': next_round(runner),
            'the seed in the checkpoint to resume': resumed_seed(runner),
            **{f'{type(hook).__name__}.{name}': in_words(getattr(hook, name)) for name in ARGUMENTS},
            'the length of train_dataloader': dataloader_length(runner),
            'the weights to start from (digest)': digest(model_of(runner)),
            **{key: value for of_average in of_averages for key, value in of_average.items()},
        }
    )


def in_words(value: Any) -> str:
    """An argument, so that equal ones read equal: of an object its class and its plain public attributes."""
    if _is_plain(value):
        return repr(value)
    attributes = {k: v for k, v in vars(value).items() if not k.startswith('_') and _is_plain(v)}
    return f'{type(value).__name__}({", ".join(f"{k}={v!r}" for k, v in sorted(attributes.items()))})'


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    if isinstance(value, dict):
        return all(map(_is_plain, value.values()))
    return value is None or isinstance(value, bool | int | float | str)
