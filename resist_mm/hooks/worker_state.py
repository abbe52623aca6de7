"""What differs between workers while the model is whole: random states, and what training has measured."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor

from resist_mm.rounds import Part

from .round_hook import RoundHook

__all__ = ['set_random_states', 'set_training_state', 'worker_state']


def worker_state(runner: Runner, residuals: bool = True) -> dict[str, Any]:
    """The states of the generators of Python, NumPy, PyTorch and the current GPU, and what else differs.

    Args:
        runner (Runner): Of the run.
        residuals (bool): Whether what compression has left out is wanted too. Defaults to True.

    Returns:
        dict: Tensors and plain numbers, which load with ``weights_only=True``; 15 kB, and what compression has
            left out if the model has been made whole without it.
    """
    version, words, gauss = random.getstate()
    name, keys, *numpy_rest = np.random.get_state()
    states = dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *numpy_rest],
        torch=torch.get_rng_state(),
        loss_scalers=[scaler.state_dict() for scaler in _loss_scalers(runner)],
        usual_losses=[hook.losses.usual for hook in _watching(runner)],
        paces=[hook.pace.state_dict() for hook in _pacing(runner)],
    )
    if residuals and any(residual.count_nonzero() for _, residual in _residuals(runner)):
        # only if the model was made whole without them: as large as the shared part, of each worker
        states['residuals'] = [residual.cpu() for _, residual in _residuals(runner)]
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Set the random states that :func:`worker_state` has returned; tensors may be on any device.

    The state of a GPU is left out if there is none.
    """
    version, words, gauss = states['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())


def set_training_state(runner: Runner, states: dict[str, Any]) -> None:
    """Set what else :func:`worker_state` has returned: loss scalers (AMP), residuals, usual losses, paces."""
    for scaler, state in zip(_loss_scalers(runner), states['loss_scalers'], strict=False):
        scaler.load_state_dict(state)
    for (part, residual), kept in zip(_residuals(runner), states.get('residuals', []), strict=False):
        part.residual = kept.to(residual)
    for hook, usual in zip(_watching(runner), states['usual_losses'], strict=False):
        hook.losses.usual = usual
    for hook, state in zip(_pacing(runner), states.get('paces', []), strict=False):
        hook.pace.load_state_dict(state)


def _loss_scalers(runner: Runner) -> list[Any]:
    wrapper = runner.optim_wrapper
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    return [wrapper.loss_scaler for wrapper in wrappers if hasattr(wrapper, 'loss_scaler')]


def _residuals(runner: Runner) -> list[tuple[Part, Tensor]]:
    """What compression has left out so far, with its part."""
    engines = [hook.engine for hook in runner.hooks if isinstance(hook, RoundHook) and hook.engine is not None]
    return [(p, p.residual) for engine in engines for p in engine.parts.all if p.residual is not None]


def _watching(runner: Runner) -> list[Any]:
    return [hook for hook in runner.hooks if isinstance(hook, RoundHook) and hook.losses is not None]


def _pacing(runner: Runner) -> list[Any]:
    return [hook for hook in runner.hooks if isinstance(hook, RoundHook) and hook.protocol.speeds is not None]
