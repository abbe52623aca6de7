"""Folds the activation scale into ordinary weights, for use without this package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from .block_gate import BlockGate
from .partition import partitioned_stages

__all__ = ['fold_scale']

LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
PASS_ON = (nn.Identity, nn.Dropout, nn.Dropout2d)
HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.PReLU)  # f(s x) = s f(x) for s > 0


@torch.no_grad()
def fold_scale(model: nn.Module) -> int:
    """Multiply the last weights of each partitioned residual branch by the scale, in place, and make the scale 1.

    The scale goes into the weight and bias of the branch's last norm, or of its last convolution or linear layer,
    or into a layer scale. The model computes the same as before: bit by bit if the scale is a power of two,
    otherwise up to rounding.

    Args:
        model (nn.Module): A whole model.

    Returns:
        int: Number of blocks whose weights were scaled.

    Raises:
        ValueError: If this would not be exact, naming the block: no weights are known at the end of its branch,
            an activation follows them that does not pass a factor on, they are shared, or they are computed from
            others. The model is unchanged then.
    """
    stages = list(partitioned_stages(model).values())
    if any(not stage.is_whole for stage in stages):
        raise ValueError('only a whole model has a scale to fold, but blocks are dropped')
    used = [p for _, p in model.named_parameters(remove_duplicate=False)]
    folds: list[tuple[Tensor, Tensor]] = []
    gates = [gate for stage in stages if stage.scale != 1 for gate in stage.gates]
    for gate in gates:
        for weights in _absorbing(gate):
            uses = sum(p is weights for p in used)
            if uses == 0:
                raise _refusal(
                    gate,
                    'the weights at the end of its branch are computed from others (weight_norm, parametrize)',
                )
            if uses > 1:
                raise _refusal(gate, 'it shares the weights at the end of its branch, so they cannot be scaled')
            folds.append((weights, gate.scale))
    for weights, scale in folds:
        weights.mul_(scale)
    for stage in stages:
        stage.scale.fill_(1)
    return len(gates)


def _absorbing(gate: BlockGate) -> Iterator[Tensor]:
    """The parameters to multiply."""
    outputs = gate.adapter.branch_outputs(gate.block)
    if not outputs:
        raise _refusal(gate, 'the whole block is scaled, since no adapter knows where its branch ends')
    for output in outputs:
        if isinstance(output, nn.Parameter):
            yield output
            continue
        module = _last_with_weights(gate, output)
        if not (isinstance(module, LINEAR + NORMS) and _computes_plainly(module)):
            raise _refusal(gate, f'{type(module).__name__} at the end of its branch may not pass a factor on')
        if module.weight is None:
            raise _refusal(gate, f'{type(module).__name__} at the end of its branch has no weight (affine=False)')
        yield cast(Tensor, module.weight)
        if module.bias is not None:
            yield cast(Tensor, module.bias)


def _computes_plainly(module: nn.Module) -> bool:
    """Whether its output is linear in its weights: a subclass may standardise them first."""
    owner = next(cls for cls in type(module).__mro__ if 'forward' in vars(cls))
    return owner.__module__.startswith(('torch.nn.', 'mmcv.cnn.bricks.wrappers'))


def _last_with_weights(gate: BlockGate, module: nn.Module) -> nn.Module:
    """Go back from the end of a branch to the last module with weights, past modules that pass a factor on."""
    if isinstance(module, nn.Sequential):
        children: list[nn.Module] = list(module.children())
    elif hasattr(module, 'with_activation'):  # mmcv's ConvModule
        if module.order != ('conv', 'norm', 'act'):
            raise _refusal(gate, f'{type(module).__name__} has the order {module.order}')
        names = [
            'conv',
            *(['norm'] if module.with_norm else []),
            *(['activate'] if module.with_activation else []),
        ]
        children = [getattr(module, name) for name in names]
    else:
        return module
    while children and isinstance(children[-1], (*PASS_ON, *HOMOGENEOUS)):
        children.pop()
    if not children:
        raise _refusal(gate, 'its branch ends without weights')
    return _last_with_weights(gate, children[-1])


def _refusal(gate: BlockGate, reason: str) -> ValueError:
    return ValueError(
        f'the scale of {gate.name} ({type(gate.block).__name__}) cannot be folded exactly: {reason}. Keep the '
        'checkpoint as it is, and resist_mm with it'
    )
