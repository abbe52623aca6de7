"""Compiles residual blocks one by one, for networks that change from round to round."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from types import FunctionType
from typing import Any

import torch
from mmengine.logging import print_log
from torch import nn

from .block_gate import gate_of
from .partition import partitioned_stages

__all__ = ['compile_blocks']


def compile_blocks(model: nn.Module, compile_cfg: bool | dict | None) -> int:
    """Compile the residual blocks of a model instead of its whole ``train_step``.

    This is how mmengine's config key ``compile`` is implemented for training in rounds.
    The sub-ResNet is a different network in every round: compiled as a whole, it would
    be recompiled each time, until torch gives up at
    ``torch._dynamo.config.recompile_limit`` (8). Its blocks stay the same, and which of
    them run is decided outside of them.

    This compiles the blocks of every stage, partitioned or not, of backbones that list
    their stages in ``res_layers`` (mmdet's ResNets and ``PreActResNet``), and those of
    any other partitioned chain. Everything else runs as before: stem, neck, head, loss
    and optimizer, and all that runs without gradients, that is, validation and the
    recalibration of BatchNorm.

    All blocks of a stage except the first are alike and share their graphs: one
    for the scaled residual branches of the whole model, if that is trained (a warm-up,
    local SGD), and one for sub-ResNets. The first block of a stage needs one of its
    own. A second input shape, such as that of a smaller last batch, adds one more to
    each, which then serves any shape. Dropping and regaining blocks adds none:
    parameters are inputs of a graph, not part of it.

    Parameter names do not change, nor does what is saved, copied or pickled; copies
    are not compiled.

    Args:
        model (nn.Module): The model, or its wrapper, as the Runner holds it. The
            ``train_step`` that mmengine has compiled, but not yet run, is restored.
        compile_cfg (bool or dict, optional): True, or arguments of ``torch.compile``;
            with None or False nothing is done. ``mode='reduce-overhead'`` makes
            little sense: CUDA graphs are recorded again whenever parameters have moved.

    Returns:
        int: Number of blocks compiled.
    """
    if compile_cfg is None or compile_cfg is False:
        return 0
    arguments = {} if compile_cfg is True else dict(compile_cfg)
    model.__dict__.pop('train_step', None)  # Runner._maybe_compile has set it on the instance
    num_blocks = 0
    for name, stage in _stages(model):
        entries: dict[str, Callable] = {}
        for place, block in enumerate(stage.children()):
            gate = gate_of(block)
            kind = ('first' if place == 0 else 'other') + ('' if gate is None else '_partitioned')
            run = _call if gate is None else _forward
            if kind not in entries:
                entry = _entry(run, f'{kind}_block_of_{name.replace(".", "_")}')
                entries[kind] = torch.compile(entry, **arguments)
            call = _TrainingCall(run, entries[kind])
            if gate is None and block._compiled_call_impl is None:
                block._compiled_call_impl = partial(call, block)
            elif gate is not None and gate.compiled is None:  # inside the gate, which decides whether it runs
                gate.compiled = call
            num_blocks += 1
    which = f'{num_blocks} residual blocks are compiled one by one, the rest of the model is not'
    nothing = 'the model has no stages of residual blocks, so nothing of it is compiled'
    print_log(f'compile: {which if num_blocks else nothing}', logger='current')
    return num_blocks


class _TrainingCall:
    """Calls a block, in compiled form if gradients are enabled.

    During recalibration the averaging factor of BatchNorm changes with each batch, and
    each value would need a graph; evaluation has input shapes of its own.
    """

    def __init__(self, run: Callable, compiled: Callable) -> None:
        self.run, self.compiled = run, compiled

    def __call__(self, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
        run = self.compiled if torch.is_grad_enabled() else self.run
        return run(block, *args, **kwargs)


def _call(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return block._call_impl(*args, **kwargs)


def _forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return type(block).forward(block, *args, **kwargs)


def _stages(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The stages of residual blocks, each with its name, none of them empty."""
    modules = dict(model.named_modules())
    listed = {
        f'{name}.{stage}'.removeprefix('.')
        for name, module in modules.items()
        for stage in getattr(module, 'res_layers', ())
        if isinstance(stage, str)
    }
    partitioned = partitioned_stages(model)
    for name, module in modules.items():
        if (name in listed or name in partitioned) and any(module.children()):
            yield name, module


def _entry(run: Callable, name: str) -> Callable:
    """A function that runs a block as ``run`` does, with a code object of its own.

    Torch caches graphs by code object. With ``nn.Module.compile`` all blocks of the model
    would have the same one: they would share the recompilation limit, the widths of
    different stages would be taken for one dynamic size, and, as torch does not guard
    on the absence of hooks, the graph of a stage's first block, which has no activation
    scale, could be reused for the others.
    """
    return FunctionType(run.__code__.replace(co_name=name, co_qualname=name), run.__globals__, name)
