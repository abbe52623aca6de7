"""What training has cost, in seconds of the processor."""

from __future__ import annotations

import resource
from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner

from resist_mm.registry import HOOKS

from .cuts import saves_after_epoch, saves_after_iter

__all__ = ['CPUSecondsHook']

KEY = 'resist_mm_cpu_seconds'


@HOOKS.register_module()
class CPUSecondsHook(Hook):
    """Logs the CPU seconds of the workers' training with every validation.

    Seconds on a clock say little where workers share cores with each other or with other jobs; CPU seconds (user
    and system, of all threads of a worker) hardly depend on that. Counted are the iterations with loading,
    exchanges and recalibration of norms, and what is saved between them; validation and starting are not. Workers
    that wait for each other sleep, which costs nothing.

    Logged are ``cpu_sec``, of the worker with the most, and ``cpu_sec_mean``, both from the beginning of training;
    a resumed run goes on counting from its checkpoint, as long as the number of workers is the same.

    Example:
        >>> default_hooks = dict(cpu_seconds=dict(type='resist_mm.CPUSecondsHook'))
    """

    priority = 'LOW'  # after the model is whole, before the log and the checkpoint

    def __init__(self) -> None:
        self._spent = 0.0  # until the last pause
        self._since: float | None = None  # None in a pause

    def before_train(self, runner: Runner) -> None:
        """Begin, or go on from the checkpoint."""
        saved = runner.message_hub.get_info(KEY, []) if runner.iter > 0 else []
        self._spent = saved[get_rank()] if len(saved) == get_world_size() else 0.0
        self._since = _cpu_seconds()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the seconds if a checkpoint is about to be saved."""
        if any(saves_after_iter(hook, runner) for hook in runner.hooks):
            self._keep(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep the seconds if a checkpoint is about to be saved."""
        if any(saves_after_epoch(hook, runner) for hook in runner.hooks):
            self._keep(runner)

    def before_val(self, runner: Runner) -> None:
        """Pause; by now the model is whole."""
        if self._since is None:  # validation alone
            return
        self._keep(runner)
        self._since = None

    def before_val_epoch(self, runner: Runner) -> None:
        """Log."""
        seconds = runner.message_hub.get_info(KEY, [])
        if seconds:
            runner.message_hub.update_scalar('val/cpu_sec', max(seconds))
            runner.message_hub.update_scalar('val/cpu_sec_mean', sum(seconds) / len(seconds))

    def after_val(self, runner: Runner) -> None:
        """Go on."""
        self._since = _cpu_seconds()

    def _keep(self, runner: Runner) -> None:
        now = _cpu_seconds()
        if self._since is not None:
            self._spent += now - self._since
            self._since = now
        runner.message_hub.update_info(KEY, all_gather_object(self._spent))


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
