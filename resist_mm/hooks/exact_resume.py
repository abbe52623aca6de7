"""A resumed run is the same run."""

from __future__ import annotations

from typing import Any

from mmengine.dist import all_gather_object, get_rank, get_world_size
from mmengine.hooks import CheckpointHook, DistSamplerSeedHook, Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop, Runner
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch.utils.data import IterableDataset

from resist_mm.datasets.order import DataOrder
from resist_mm.registry import HOOKS
from resist_mm.rounds.batch_norm import recalibrated_norms

from .cuts import dataloader_length, saves_after_epoch, saves_after_iter, whole_model_iters
from .round_hook import RoundHook
from .schedules import CannotResume, Schedules
from .worker_state import set_random_states, set_training_state, worker_state

__all__ = ['ExactResumeHook']

KEY = 'resist_mm_resume'


@HOOKS.register_module()
class ExactResumeHook(Hook):
    """Makes a resumed run the same run. ``tools/train.py`` adds this hook to every run.

    What holds, where the operations of the device are deterministic:

    - With the same config and number of workers a resumed run has the weights of the undisturbed one, bit for bit.
      Checkpoints hold the random states of every worker, its loss scaler and its usual loss. Both runs set the
      random states before the next iteration, so that what happens in between does not matter, such as validation
      or the start of a loader. Samples are seeded one by one (:class:`DataOrder`), and the loader begins at the
      right batch, also inside an epoch, without loading what was trained on.
    - With another number of workers, length, schedule or learning rate a run goes on at the same epoch, or at the
      same iteration if it counts those. Schedulers that differ from those of the checkpoint are rebuilt from the
      config and replayed up to there. One line of the log says what has changed. Random states of another number
      of workers are not carried over.

    Weights are saved with the states at the intervals of mmengine's ``CheckpointHook``, and after validation.

    Raises:
        CannotResume: When a checkpoint is resumed, if a schedule has changed that depends on measurements, or if a
            run by epochs would go on by iterations or the other way round.

    Example:
        >>> custom_hooks = [dict(type='resist_mm.ExactResumeHook')]
    """

    priority = 'LOW'  # after the model is whole, before it is saved

    def __init__(self) -> None:
        self._order: DataOrder | None = None
        self._states: dict[str, Any] | None = None  # until the next iteration
        self._schedules: Schedules | None = None
        self._saved_at: int | None = None  # iterations, as the run before counted them
        self._saved_epoch_iters: int | None = None

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Compare what is resumed with the config, before mmengine has put one over the other.

        Raises:
            CannotResume: See the class.
        """
        meta, hub = checkpoint.get('meta') or {}, checkpoint.get('message_hub')
        if not runner._resume or not isinstance(runner._train_loop, BaseLoop) or 'iter' not in meta:
            return
        info = hub.get('runtime_info', {}) if isinstance(hub, dict) else {}
        self._saved_at = meta['iter']
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            meta['iter'] = self._iters_now(runner, meta, info)
        by_epoch = info.get(KEY, {}).get('by_epoch')
        if by_epoch not in (None, isinstance(runner.train_loop, EpochBasedTrainLoop)):
            raise CannotResume(
                f'the checkpoint is of a run by {"epochs" if by_epoch else "iterations"}, but train_cfg has '
                f'another loop: set train_cfg.by_epoch={by_epoch}, or begin a new run from its weights: '
                'load_from=CHECKPOINT without --resume'
            )
        if 'param_schedulers' in checkpoint and isinstance(runner.param_schedulers, list | dict):
            self._schedules = Schedules(runner.param_schedulers)
            self._schedules.compare(checkpoint['param_schedulers'])
            if self._schedules.changes:
                del checkpoint['param_schedulers']  # or mmengine would load it

    def before_train(self, runner: Runner) -> None:
        """Go to the position in the data and in the schedules."""
        if not isinstance(runner.train_dataloader.dataset, IterableDataset):
            self._order = DataOrder(runner.train_dataloader, abs(int(runner.seed or 0)), get_rank())
        before = runner.message_hub.get_info(KEY, {}) if runner.iter > 0 else {}
        if runner.iter == 0:
            self._go_to_batch(runner, 0)
            return
        if self._order is not None and before.get('sampler_seed') is not None:
            # without a seed in the config, the loader was built with a new one
            self._order.sampler.seed = before['sampler_seed']
        same = before.get('workers') == get_world_size() and before.get('iter') == self._saved_at
        same &= not before.get('lost_workers')  # its data was still dealt to them
        if self._schedules is not None and self._schedules.changes:
            self._schedules.replay(*_position(runner))
        if same:
            self._states = before['states'][get_rank()]
            set_training_state(runner, self._states)
        self._go_to_batch(runner, self._batches_to_load(runner) if same else 0)
        self._report(runner, before, same)

    def before_train_epoch(self, runner: Runner) -> None:
        """Tell the data which epoch it is."""
        if self._order is not None and isinstance(runner.train_loop, EpochBasedTrainLoop):
            self._order.passes = runner.epoch

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Go on with the random states of the last checkpoint."""
        if self._states is not None:
            set_random_states(self._states)
            self._states = None

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict | None = None
    ) -> None:
        """Keep the states if a checkpoint is about to be saved."""
        if any(saves_after_iter(hook, runner) for hook in runner.hooks):
            self._keep(runner, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """Keep the states if a checkpoint is about to be saved."""
        if any(saves_after_epoch(hook, runner) for hook in runner.hooks):
            self._keep(runner, runner.iter)

    def before_val(self, runner: Runner) -> None:
        """Keep the states: after validation the best checkpoint and the last one may be saved."""
        if self._order is not None:  # validation of a training run
            best = any(isinstance(hook, CheckpointHook) and hook.save_best for hook in runner.hooks)
            self._keep(runner, runner.iter, residuals=best)

    def _keep(self, runner: Runner, iters: int, residuals: bool = True) -> None:
        """Gather the states of all workers for the checkpoint; all of them call it."""
        if self._states is None:
            self._states = worker_state(runner, residuals)
        runner.message_hub.update_info(
            KEY,
            dict(
                iter=iters,
                workers=get_world_size(),
                lost_workers=_lost_workers(runner),
                by_epoch=isinstance(runner.train_loop, EpochBasedTrainLoop),
                sampler_seed=getattr(self._order.sampler, 'seed', None) if self._order else None,
                **_partition_of(runner),
                states=all_gather_object(self._states),
            ),
        )

    def _iters_now(self, runner: Runner, meta: dict, info: dict) -> int:
        """The number of iterations at the position of a checkpoint, with the epochs of this run."""
        length = dataloader_length(runner)
        if not length:
            return meta['iter']
        saved = info.get('max_iters', 0) // max(1, info.get('max_epochs', 1)) or length
        self._saved_epoch_iters = saved
        in_epoch = meta['iter'] - meta['epoch'] * saved
        if not 0 <= in_epoch <= saved:  # mmengine has resumed the run with epochs of another length
            in_epoch = 0
        return meta['epoch'] * length + in_epoch * length // saved

    def _go_to_batch(self, runner: Runner, keep: int) -> None:
        """Let the loader begin at the right batch, and load the last ones before it."""
        if self._order is None:
            return
        loop, recent = runner.train_loop, []
        epochs, _, done = _position(runner)
        used = None
        for hook in runner.hooks:
            if isinstance(hook, RoundHook):
                done, used = hook.pace.continue_at(done)
        if isinstance(loop, EpochBasedTrainLoop):
            reshuffles = any(isinstance(hook, DistSamplerSeedHook) for hook in runner.hooks)
            recent = self._order.go_to_epoch(epochs, done, keep, reshuffles, used)
        elif isinstance(loop, IterBasedTrainLoop):
            skips = runner.iter if not getattr(loop, 'fast_forward_on_resume', False) else 0
            recent = self._order.go_to_iter(done if skips else 0, keep)
            loop.dataloader_iterator = _AdvancedIterator(self._order, skips)
        for hook in runner.hooks:
            if isinstance(hook, RoundHook) and recent:
                hook.batches.extend(self._order.load(recent))

    def _batches_to_load(self, runner: Runner) -> int:
        """How many of the batches before norms will be recalibrated with."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        needed = [i for i in (*whole_model_iters(runner), runner.max_iters) if i > runner.iter]
        for hook in runner.hooks:
            if isinstance(hook, RoundHook) and recalibrated_norms(model) and needed:
                most = hook.batches.maxlen or 0
                return most if hook.pace.is_needed or min(needed) - runner.iter < most else 0
        return 0

    def _report(self, runner: Runner, before: dict, same: bool) -> None:
        """Log what has changed, in one line."""
        found = [f'workers {before["workers"]} -> {get_world_size()}'] if before.get('workers') else []
        found = found if before.get('workers') != get_world_size() else []
        for key, value in _partition_of(runner).items():
            if before.get(key) is not None and before[key] != value:
                found.append(f'{key.replace("_", " ")} {_in_words(before[key])} -> {_in_words(value)}')
        length = dataloader_length(runner)
        if self._saved_epoch_iters not in (None, length):
            found.append(
                f'iterations an epoch {self._saved_epoch_iters} -> {length}, so that the run goes on at iteration '
                f'{runner.iter}'
            )
        if self._schedules is not None and self._schedules.changes:
            found.append(f'schedulers are those of the config: {"; ".join(self._schedules.changes)}')
        if not same:
            found.append('random states are not carried over' + ('' if before else ', the checkpoint has none'))
        if found:
            runner.logger.warning(f'Resumed with changes: {"; ".join(found)}')


class _AdvancedIterator(_InfiniteDataloaderIterator):
    """Leaves out what the loop skips when it resumes: the loader begins behind that already."""

    def __init__(self, order: DataOrder, skips: int) -> None:
        super().__init__(order.loader)
        self._epoch = order.passes
        self._to_skip = skips

    def skip_iter(self, num_iters: int) -> None:
        self._to_skip = 0

    def __next__(self) -> Any:
        if self._to_skip:  # mmengine before 0.10.12 skips by taking batches
            self._to_skip -= 1
            return None
        return super().__next__()


def _position(runner: Runner) -> tuple[int, int, int]:
    """Epochs that are done, iterations of each, iterations since."""
    if not isinstance(runner.train_loop, EpochBasedTrainLoop):
        return 0, 0, runner.iter
    length = dataloader_length(runner) or 0
    return runner.epoch, length, runner.iter - runner.epoch * length


def _lost_workers(runner: Runner) -> int:
    engines = [hook.engine for hook in runner.hooks if isinstance(hook, RoundHook)]
    losses = [loss for engine in engines if engine and engine.recovery for loss in engine.recovery.losses]
    return sum(len(loss.lost) for loss in losses)


def _in_words(value: Any) -> str:
    least, most = (value, value) if isinstance(value, float | int) else (min(value), max(value))  # of the workers
    return f'{least:.4g}' if least == most else f'{least:.4g} to {most:.4g}'


def _partition_of(runner: Runner) -> dict[str, Any]:
    for hook in runner.hooks:
        if isinstance(hook, RoundHook) and hook.engine is not None and hook.protocol.deals_blocks:
            sampler = getattr(hook.protocol, 'sampler', None)
            return dict(
                activation_scale=getattr(hook.protocol, 'scale', None),
                blocks_a_worker=getattr(sampler, 'blocks_per_worker', None),
            )
    return {}
