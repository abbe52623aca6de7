"""The states of the random generators of a process."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

__all__ = ['random_states', 'set_random_states']


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and PyTorch's generators, and of that of the current GPU.

    Returns:
        dict: Tensors and plain numbers, which load with ``weights_only=True``; 15 kB.
    """
    version, words, gauss = random.getstate()
    name, keys, *numpy_rest = np.random.get_state()
    states = dict(
        python=[version, torch.tensor(words), gauss],
        numpy=[name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *numpy_rest],
        torch=torch.get_rng_state(),
    )
    if torch.cuda.is_available():
        states['cuda'] = torch.cuda.get_rng_state()
    return states


def set_random_states(states: dict[str, Any]) -> None:
    """Set what :func:`random_states` has returned; tensors may be on any device.

    The state of a GPU is left out if there is none.
    """
    version, words, gauss = states['python']
    random.setstate((version, tuple(words.tolist()), gauss))
    name, keys, *rest = states['numpy']
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states['torch'].cpu())
    if 'cuda' in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states['cuda'].cpu())
