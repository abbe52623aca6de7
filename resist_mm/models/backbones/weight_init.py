"""Initial weights of backbones, by name."""

from __future__ import annotations

__all__ = ['INIT_CFGS', 'check_init']

NORMS = dict(type='Constant', val=1, layer=['_BatchNorm', 'GroupNorm'])

INIT_CFGS: dict[str, list[dict]] = {
    'kaiming': [dict(type='Kaiming', layer='Conv2d'), NORMS],
    # torch.nn.Conv2d.reset_parameters: uniform within 1 / sqrt(fan_in)
    'torch': [
        dict(
            type='Kaiming',
            layer='Conv2d',
            a=5**0.5,
            mode='fan_in',
            nonlinearity='leaky_relu',
            distribution='uniform',
        ),
        NORMS,
    ],
}


def check_init(init: str) -> None:
    """Check the name of an initialisation.

    Raises:
        ValueError: If ``init`` is not a key of ``INIT_CFGS``.
    """
    if init not in INIT_CFGS:
        raise ValueError(f'init must be one of {list(INIT_CFGS)}, got {init!r}')
