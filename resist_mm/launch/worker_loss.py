"""The launcher's word on what happens when a worker is lost."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from mmengine.config import Config

from ..config_hooks import custom_hooks, is_round_hook

__all__ = ['continue_if_asked']


def continue_if_asked(cfg: Config) -> None:
    """Put ``ON_WORKER_LOSS`` of the environment, which the launcher has acted upon, into the hook of rounds.

    Raises:
        ValueError: If it is neither 'stop' nor 'continue', or there is no hook of rounds in the config.
    """
    policy = os.environ.get('ON_WORKER_LOSS')
    if not policy:
        return
    if policy not in ('stop', 'continue'):
        raise ValueError(f"ON_WORKER_LOSS must be 'stop' or 'continue', got {policy!r}")
    hooks = [hook for hook in custom_hooks(cfg) if is_round_hook(hook)]
    if not hooks and policy == 'continue':
        raise ValueError(
            'ON_WORKER_LOSS=continue is for training in rounds, but custom_hooks has no ResISTHook or LocalSGDHook'
        )
    for hook in hooks:
        if isinstance(hook, MutableMapping):
            hook['on_worker_loss'] = policy
        else:
            hook.on_worker_loss = policy
