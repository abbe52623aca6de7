"""What a config needs in order to be launched with several workers."""

from __future__ import annotations

from mmengine.config import Config

__all__ = ['ROUND_HOOKS', 'check_wrapper']

ROUND_HOOKS = ('ResISTHook', 'LocalSGDHook', 'RoundHook')


def check_wrapper(cfg: Config) -> None:
    """Check that a config with one of this package's hooks has a model wrapper.

    Without one mmengine wraps the model for data-parallel training, which fails on a
    CPU before any hook can explain why.

    Raises:
        ValueError: If the wrapper is missing.
    """
    hooks = [str(hook.get('type')) for hook in cfg.get('custom_hooks') or [] if isinstance(hook, dict)]
    protocols = [hook for hook in hooks if hook.split('.')[-1] in ROUND_HOOKS]
    if protocols and cfg.get('launcher', 'none') != 'none' and not cfg.get('model_wrapper_cfg'):
        raise ValueError(
            f'custom_hooks has {protocols[0]}, but model_wrapper_cfg is missing, and the default exchanges '
            "gradients in each iteration. Put model_wrapper_cfg = dict(type='resist_mm.LocalModel') in the config"
        )
