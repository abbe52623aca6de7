"""Lets a slow worker sit out some iterations of its round, in step with the Runner."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor

from resist_mm.models.wrappers import LocalModel
from resist_mm.rounds import Engine, RoundProtocol
from resist_mm.rounds.positions import iterations_so_far, trains

from .cuts import dataloader_length

__all__ = ['Pace', 'read_local_iters']

DEFAULT_LOCAL_ITERS = 50
BY_SPEED = 'by_speed'


def read_local_iters(name: str, given: int | str | dict) -> tuple[int, bool]:
    """The iterations of a round, and whether slow workers train fewer, from what a config says.

    Raises:
        ValueError: If it is some other word or dict. A number is not checked.
    """
    if isinstance(given, str | dict):
        if given == BY_SPEED:
            return DEFAULT_LOCAL_ITERS, True
        if isinstance(given, dict) and list(given) == [BY_SPEED]:
            return given[BY_SPEED], True
        raise ValueError(
            f"{name}.local_iters must be an integer of at least 1, 'by_speed', or dict(by_speed=200) with the "
            f'iterations of the fastest worker, got {given!r}'
        )
    return given, False


class Pace:
    """In which of the Runner's iterations this worker trains.

    All workers count the same iterations of the Runner: its loop, its schedulers, validation and checkpoints do
    not know that workers differ. In an iteration that a worker sits out, its loader is not asked for a batch, the
    model does nothing, and hooks see the batch and the outputs of the last iteration again; a moving average of
    the weights takes the same weights once more. A round has as many of the Runner's iterations as the fastest
    worker trains. The others sit out some of them, evenly spread and never the first, by arithmetic that is the
    same everywhere. So a round that ends early is fair, too, and all workers know how many iterations each of them
    has trained.

    Args:
        runner (Runner): Of the run.
        protocol (RoundProtocol): Says how many iterations each worker trains.
        local_iters (int): Iterations of a round.
        position (Callable): How many of them are done; as many as the round has if the next one is about to begin.
        keep (int): Number of the last batches that a resumed run has to load again.

    Attributes:
        fetched: Number of batches that this worker has taken: in this epoch, or in the whole of a run that counts
            iterations.

    Raises:
        ValueError: If the run cannot sit out iterations.
    """

    def __init__(
        self, runner: Runner, protocol: RoundProtocol, local_iters: int, position: Callable[[], int], keep: int
    ) -> None:
        self.protocol, self.local_iters, self._position = protocol, local_iters, position
        self.is_needed = protocol.iters_by_speed and protocol.num_workers > 1
        self.fetched = 0
        self._resumed = False
        self._of_epochs: deque[int] = deque(maxlen=keep)  # before this one
        self._of_workers: list[int] = []
        self._speeds = None if protocol.speeds is None else protocol.speeds.current
        self._logger = runner.logger
        self._batch: Any = None
        self._outputs: dict[str, Any] = {}
        if not self.is_needed:
            return
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if accumulated > 1:
            raise ValueError(
                f"local_iters='by_speed' lets slow workers train fewer iterations, which cannot be combined with "
                f'optim_wrapper.accumulative_counts={accumulated}: set it to 1'
            )
        if not isinstance(runner.model, LocalModel):
            raise ValueError(
                "local_iters='by_speed' needs the wrapper that lets a worker sit out an iteration: put "
                "model_wrapper_cfg = dict(type='resist_mm.LocalModel') in the config"
            )
        self._model = runner.model
        self._slow_down(runner)

    def begin_round(self, engine: Engine) -> None:
        """Find out how many iterations each worker trains in the round that has begun."""
        self._rank = engine.rank
        self._of_workers = self.protocol.iterations(engine.round, self.local_iters)
        if self.is_needed:
            self._model.instead = None
        speeds = self.protocol.speeds
        if speeds is not None and speeds.current is not self._speeds and speeds.current is not None:
            self._speeds = speeds.current
            self._log_speeds(engine)

    def _log_speeds(self, engine: Engine) -> None:
        speeds = self._speeds
        assert engine.assignment is not None and speeds is not None
        hands = [len(engine.assignment.blocks(worker)) for worker in range(engine.num_workers)]
        blocks = f'{hands} of {engine.parts.num_blocks} blocks, ' if engine.parts.num_blocks else ''
        of_iteration = ', '.join(f'{speeds.iteration_sec(worker, hand):.3g}' for worker, hand in enumerate(hands))
        share = sum(self._of_workers) / (len(self._of_workers) * self.local_iters)
        self._logger.info(
            f'Round {engine.round}: the workers have agreed on seconds of an iteration ({of_iteration}): {blocks}'
            f'{self._of_workers} iterations a round; together they see {share:.0%} of the data in an epoch'
        )

    @property
    def sits_out(self) -> bool:
        """Whether this worker sits out the next iteration, or the one that is running."""
        position = self._position()
        if not self.is_needed or position >= self.local_iters:
            return False
        return not trains(position, self._of_workers[self._rank], self.local_iters)

    def counts(self, done: int) -> list[int]:
        """How many iterations each worker has trained, after ``done`` of the Runner's in this round."""
        return [iterations_so_far(done, of_worker, self.local_iters) for of_worker in self._of_workers]

    def before_iter(self) -> None:
        """Tell the model whether the iteration that begins is sat out."""
        if self.is_needed:
            self._model.instead = self._outputs if self.sits_out else None

    def after_iter(self, outputs: Any) -> None:
        """Keep what an iteration that was not sat out has returned."""
        if self.is_needed and isinstance(outputs, dict):
            self._outputs = {k: v.detach() if isinstance(v, Tensor) else v for k, v in outputs.items()}

    def before_epoch(self, runner: Runner) -> None:
        """Count the batches of each epoch anew, where a run has epochs; it may have been resumed inside one."""
        length = dataloader_length(runner)
        if isinstance(runner.train_loop, EpochBasedTrainLoop) and runner.iter == runner.epoch * (length or 0) > 0:
            self._of_epochs.append(self.fetched)
            self.fetched = 0

    def continue_at(self, done: int) -> tuple[int, list[int] | None]:
        """How many batches a run that goes on has taken: of its epoch, or of all, and of the epochs before.

        Args:
            done (int): The first, if this worker had sat out none.
        """
        if not self.is_needed:
            return done, None
        if not self._resumed:
            self.fetched = done
            return done, None
        return (self.fetched, list(self._of_epochs)) if done else (0, [*self._of_epochs, self.fetched])

    def state_dict(self) -> dict[str, Any]:
        """How many batches this worker has taken, and what it has measured, to keep in checkpoints."""
        speeds = self.protocol.speeds
        measured = None if speeds is None else list(speeds.measured)
        return dict(fetched=self.fetched, of_epochs=list(self._of_epochs), measured=measured)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what :meth:`state_dict` returned."""
        self._resumed = True
        self.fetched = state['fetched']
        self._of_epochs.extend(state['of_epochs'])
        if self.protocol.speeds is not None:
            self.protocol.speeds.measured = tuple(state['measured'])

    def _slow_down(self, runner: Runner) -> None:
        """Let the loader yield the last batch again, without loading one, where an iteration is sat out."""
        loader, by_epoch = runner.train_dataloader, isinstance(runner.train_loop, EpochBasedTrainLoop)
        length = dataloader_length(runner) or 0

        def batches(inner: Iterator) -> Iterator:
            # the Runner counts the iteration when it asks for the next batch
            end = (runner.epoch + 1) * length if by_epoch else runner.max_iters
            while runner.iter < end:
                if not self.sits_out:
                    try:
                        self._batch = next(inner)
                    except StopIteration:
                        return
                    self.fetched += 1
                yield self._batch

        # the same object with the same name, as for all that look at the loader
        cls = type(loader)
        loader.__class__ = type(cls.__name__, (cls,), dict(__iter__=lambda self: batches(cls.__iter__(self))))
