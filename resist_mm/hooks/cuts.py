"""When the whole model is needed, and how many rounds end early for it."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

__all__ = [
    'cut_rounds',
    'dataloader_length',
    'saves_after_epoch',
    'saves_after_iter',
    'whole_model_iters',
]


def saves_after_iter(hook: Hook, runner: Runner) -> bool:
    """Whether a hook is about to save a checkpoint after this iteration."""
    return (
        isinstance(hook, CheckpointHook)
        and not hook.by_epoch
        and (
            hook.every_n_train_iters(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_iter(runner))
        )
    )


def saves_after_epoch(hook: Hook, runner: Runner) -> bool:
    """Whether a hook is about to save a checkpoint after this epoch."""
    return (
        isinstance(hook, CheckpointHook)
        and hook.by_epoch
        and (
            hook.every_n_epochs(runner, hook.interval, hook.save_begin)
            or (hook.save_last and hook.is_last_train_epoch(runner))
        )
    )


def dataloader_length(runner: Runner) -> int | None:
    """Number of batches of the training loader; None if it has no length."""
    try:
        return len(runner.train_dataloader)
    except TypeError:  # of an IterableDataset
        return None


def whole_model_iters(runner: Runner) -> set[int]:
    """The numbers of iterations, from 1, after which the whole model is needed."""
    epoch_based = isinstance(runner.train_loop, EpochBasedTrainLoop)
    # mmengine treats an iteration-based run as a single epoch
    epoch_iters = (dataloader_length(runner) if epoch_based else None) or runner.max_iters
    iters: set[int] = set()
    if runner.val_loop is not None:
        unit, interval = (epoch_iters if epoch_based else 1), runner.val_interval
        first = interval * -(-runner.val_begin // interval)
        iters |= set(range(first * unit, runner.max_iters + 1, interval * unit))
    for hook in runner.hooks:
        if isinstance(hook, CheckpointHook) and hook.interval > 0:
            unit, first = (epoch_iters if hook.by_epoch else 1), hook.save_begin or hook.interval
            iters |= set(range(first * unit, runner.max_iters + 1, hook.interval * unit))
    return iters


def cut_rounds(local_iters: int, needed: Iterable[int]) -> tuple[int, int]:
    """Count the rounds that end early.

    Args:
        local_iters (int): Iterations of a full round.
        needed (Iterable[int]): Iterations after which the whole model is needed.

    Returns:
        tuple[int, int]: The number of rounds cut short and of all rounds, up to the last of ``needed``.

    Example:
        >>> cut_rounds(50, [100, 230])
        (1, 5)
    """
    cut = rounds = previous = 0
    for iteration in sorted(needed):
        full, rest = divmod(iteration - previous, local_iters)
        cut += rest > 0
        rounds += full + (rest > 0)
        previous = iteration
    return cut, rounds
