"""Whether a checkpoint's weights are those of a model; mmengine only warns, and goes on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

__all__ = ['check_scales', 'check_weights']

SHOWN = 3
SCALE = '.scale'


def check_weights(model: nn.Module, checkpoint: Any, weights: str) -> None:
    """Check that a checkpoint has all parameters of a model, and no activation scale that the model would ignore.

    Args:
        model (nn.Module): The model.
        checkpoint (Any): What the file holds.
        weights (str): What to call it in errors.

    Raises:
        ValueError: If it lacks any, or has one.
    """
    shapes = {key: getattr(value, 'shape', None) for key, value in _state_of(checkpoint).items()}
    missing = [name for name, p in model.named_parameters() if shapes.get(name) != p.shape]
    if missing:
        more = f' and {len(missing) - SHOWN} more' if len(missing) > SHOWN else ''
        raise ValueError(
            f'{weights} is no checkpoint of this model: it lacks {", ".join(missing[:SHOWN])}{more}, or has them '
            'in another shape. The config has to be the one that it was trained with, such as that in the work dir'
        )
    check_scales(model, checkpoint, weights)


def check_scales(model: nn.Module, checkpoint: Any, weights: str) -> None:
    """Check that a model takes the activation scales of a checkpoint, without which its predictions are wrong.

    The arguments are those of :func:`check_weights`.

    Raises:
        ValueError: If a module of the model has a scale in the checkpoint, but not in the model.
    """
    modules, known = dict(model.named_modules()), model.state_dict()
    for key in _state_of(checkpoint):
        if key.endswith(SCALE) and key.removesuffix(SCALE) in modules and key not in known:
            raise ValueError(
                f'{weights} was trained by ResIST: it has {key}, which the model of this config lacks. Use the '
                'config in the work dir, or fold the scale with tools/model_converters/fold_scale.py'
            )


def _state_of(checkpoint: Any) -> Mapping[str, Any]:
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else {}
    return {key.removeprefix('module.'): value for key, value in state.items()}
