"""What a config needs in order to be launched with several workers."""

from __future__ import annotations

from mmengine.config import Config

from ..config_hooks import custom_hooks, hook_name, is_round_hook

__all__ = ['check_wrapper']


def check_wrapper(cfg: Config) -> None:
    """Check that a config with one of this package's hooks has a model wrapper.

    Without one mmengine wraps the model for data-parallel training, which fails on a
    CPU before any hook can explain why.

    Raises:
        ValueError: If the wrapper is missing, or ``custom_hooks`` is no list.
    """
    protocols = [hook_name(hook) for hook in custom_hooks(cfg) if is_round_hook(hook)]
    if protocols and cfg.get('launcher', 'none') != 'none' and not cfg.get('model_wrapper_cfg'):
        raise ValueError(
            f'custom_hooks has {protocols[0]}, but model_wrapper_cfg is missing, and the default exchanges '
            "gradients in each iteration. Put model_wrapper_cfg = dict(type='resist_mm.LocalModel') in the config"
        )
