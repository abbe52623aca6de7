"""mmengine's EMAHook in training by rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from resist_mm.exchange import Traffic
from resist_mm.rounds import Engine, MovingAverage, MovingStatistics, TravellingState
from resist_mm.rounds.agreement import digest
from resist_mm.rounds.batch_norm import settle_buffers

__all__ = ['HookedAverage', 'averages_of', 'update_before']


class HookedAverage:
    """The moving average that an ``EMAHook`` keeps, as a state that travels with the parts of the model.

    The hook itself does what it always does: it updates the average after each iteration, swaps it in for
    validation, and saves it. Any class that keeps the contract of mmengine's ``BaseAveragedModel`` will do.

    Its buffers when the model is made whole are as mmengine's ``update_buffers`` has them:

    - False: buffers are the model's, so that they are copied. What is validated has the weights of the average
      and the running statistics of the model, with mmengine alone as here.
    - True: the average has statistics of its own. With ``bn='average'`` they travel as the model's do. With
      ``bn='recalibrate'``, what it has averaged comes from sub-ResNets and does not suit the whole model: the
      same batches run through the model once more, with the weights of the average. Buffers that are no
      statistics are worker 0's.

    Args:
        hook (EMAHook): The hook, once its ``before_run`` has been called.
        model (nn.Module): The model that is trained, not its wrapper; it is whole.
        bn_interval (int, optional): Number of rounds after which statistics travel. None: never.

    Raises:
        ValueError: If the hook keeps something else than an averaged model of this model.
    """

    def __init__(self, hook: EMAHook, model: nn.Module, bn_interval: int | None) -> None:
        self.hook, self.model = hook, model
        self.averaged = _averaged_model(hook)
        self.shadow: nn.Module = self.averaged.module
        self.weights = MovingAverage(model, self.shadow, self.has_begun, self.averaged.avg_parameters)
        self.states: list[TravellingState] = [self.weights]
        if self.averaged.update_buffers:
            self.states.append(MovingStatistics(model, self.shadow, self.has_begun, bn_interval))
        # what the protocol is about to set, such as the activation scale
        self._buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}

    @property
    def name(self) -> str:
        """What to call it in messages to the user."""
        return f'{type(self.hook).__name__} ({type(self.averaged).__name__})'

    def has_begun(self) -> bool:
        """Whether there is an average yet; until then the shadow is a copy of the model."""
        return int(self.averaged.steps) > 0

    def what_must_agree(self) -> dict[str, Any]:
        """What all workers have to begin with alike."""
        return {
            f'the steps of {self.name}': int(self.averaged.steps),
            # before it begins, the first iteration replaces whatever is there
            f'the average of {self.name} (digest)': digest(self.shadow) if self.has_begun() else None,
        }

    @torch.no_grad()
    def begin(self, engine: Engine) -> None:
        """Called once the engine is there: cut the shadow into parts, and give it the model's activation scale.

        mmengine copies the model before its weights are initialised or loaded. Unless the average has begun, that
        copy is replaced here: a worker whose first round does not count falls back on it.
        """
        self.weights.cut(engine.parts)
        if not self.has_begun():
            self.weights.restart()
            _copy_all(self.shadow.buffers(), self.model.buffers())
        buffers = dict(self.shadow.named_buffers())
        for name, buffer in self.model.named_buffers():
            if not torch.equal(buffer, self._buffers[name]):
                buffers[name].copy_(buffer)
        self._buffers.clear()

    @torch.no_grad()
    def settle(
        self, engine: Engine, travelled: bool, batches: Sequence[Any], forward: Callable[[Any], object]
    ) -> Traffic:
        """Give the average its buffers once the model is whole and has its own; see :func:`settle_buffers`.

        Args:
            engine (Engine): Of this worker.
            travelled (bool): Whether statistics have travelled (``bn='average'``).
            batches (Sequence): Batches of this worker to recalibrate norms with.
            forward (Callable): Runs the model on a batch.

        Returns:
            Traffic: The bytes moved.
        """
        if not (self.averaged.update_buffers and self.has_begun()):
            _copy_all(self.shadow.buffers(), self.model.buffers())
            return Traffic()
        # the model, not the shadow: only the model is in the modes that hooks have set (training, use_l1)
        self.hook._swap_ema_parameters()
        try:
            return settle_buffers(engine, travelled, batches, forward)
        finally:
            self.hook._swap_ema_parameters()


def averages_of(runner: Runner, model: nn.Module, bn_interval: int | None) -> list[HookedAverage]:
    """The moving averages that the hooks of a run keep."""
    return [HookedAverage(hook, model, bn_interval) for hook in runner.hooks if isinstance(hook, EMAHook)]


def update_before(runner: Runner, round_hook: Hook) -> None:
    """Let every ``EMAHook`` act before the hook of rounds, so that the last iteration of a round counts too.

    Of two hooks of one priority mmengine calls the one first that was registered first.
    """
    hooks = list(runner.hooks)
    late = [hook for hook in hooks[hooks.index(round_hook) :] if isinstance(hook, EMAHook)]
    if not late:
        return
    for hook in late:
        hook.priority = round_hook.priority
        hooks.remove(hook)
        hooks.insert(hooks.index(round_hook), hook)
        runner.logger.info(
            f'{type(hook).__name__} is called before {type(round_hook).__name__} from now on: it has to see the '
            'last iteration of a round before the workers exchange'
        )
    runner._hooks = hooks  # another list: mmengine is iterating over the old one


def _averaged_model(hook: EMAHook) -> Any:
    averaged = getattr(hook, 'ema_model', None)
    needed = ('module', 'steps', 'update_buffers', 'avg_parameters')
    if any(not hasattr(averaged, name) for name in needed):
        raise ValueError(
            f'{type(hook).__name__} keeps {type(averaged).__name__} as its ema_model, which lacks '
            f"attributes of mmengine's BaseAveragedModel ({', '.join(needed)}): choose another ema_type"
        )
    return averaged


def _copy_all(targets: Any, sources: Any) -> None:
    pairs: list[tuple[Tensor, Tensor]] = list(zip(targets, sources, strict=True))
    for target, source in pairs:
        target.copy_(source)
