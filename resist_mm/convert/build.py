"""The model of a config, built to look at."""

from __future__ import annotations

import copy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from ..config_values import check_has_model

__all__ = ['build_to_look_at']


def build_to_look_at(cfg: Config, device: str = 'meta') -> nn.Module:
    """Build a config's model, without storage if that is possible; no weights are loaded.

    Args:
        cfg (Config): Stays as it is.
        device (str): Where to build it. Defaults to 'meta': without storage; on the CPU if some module
            computes with values when it is built.

    Returns:
        nn.Module: The model, in training mode, so that what is frozen is frozen.

    Raises:
        ValueError: If the config has no model, or it cannot be built.
    """
    check_has_model(cfg)
    name = cfg.filename or 'the config'
    scope = cfg.get('default_scope') or 'mmengine'
    try:
        with DefaultScope.overwrite_default_scope(scope):
            try:
                with torch.device(device):
                    return MODELS.build(copy.deepcopy(cfg.model)).train()
            except (NotImplementedError, RuntimeError):  # some modules compute with values when they are built
                return MODELS.build(copy.deepcopy(cfg.model)).train()
    except (AttributeError, ImportError, KeyError, TypeError, ValueError) as error:
        message = error.args[0] if isinstance(error, KeyError) and error.args else error
        raise ValueError(f'the model of {name} cannot be built: {message}') from None
