"""The module that answers for ``mmcv._ext`` where mmcv was installed without compiled ops."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__all__ = ['HOW_TO_BUILD', 'OPS', 'StandIn', 'install']

# of every op that works without compiling: the module of this package that has it
OPS: dict[str, str] = {
    'nms': 'nms',
    'softnms': 'soft_nms',
    'roi_align_forward': 'roi_align',
    'roi_align_backward': 'roi_align',
    'deform_conv_forward': 'deform_conv',
    'deform_conv_backward_input': 'deform_conv',
    'deform_conv_backward_parameters': 'deform_conv',
    'modulated_deform_conv_forward': 'modulated_deform_conv',
    'modulated_deform_conv_backward': 'modulated_deform_conv',
    'sigmoid_focal_loss_forward': 'focal_loss',
    'sigmoid_focal_loss_backward': 'focal_loss',
    'ms_deform_attn_forward': 'deform_attention',
    'ms_deform_attn_backward': 'deform_attention',
    'get_compiler_version': 'info',
    'get_compiling_cuda_version': 'info',
}

HOW_TO_BUILD = (
    "Build mmcv with its ops: 'bash tools/setup_env.sh --with-ops' in a clone of resist_mm, or in an environment "
    "that has torch, setuptools and ninja: 'pip install --no-build-isolation --no-cache-dir --no-deps "
    "--force-reinstall --no-binary onedl-mmcv onedl-mmcv'"
)

_EXTENSION = 'mmcv._ext'


def _replaced_op(name: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        return getattr(import_module(f'{__package__}.{OPS[name]}'), name)(*args, **kwargs)

    return call


def _missing_op(name: str) -> Callable[..., Any]:
    """What stands for an op that only a compiled mmcv has: mmcv looks all its ops up when it is imported."""

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"mmcv's op {name!r} is not compiled, and resist_mm.ops does not replace it. {HOW_TO_BUILD}"
        )

    return fail


class StandIn(ModuleType):
    """The functions of ``mmcv._ext``; the file of one is imported when it is called for the first time."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith('__'):  # Python's own questions, such as for __path__
            raise AttributeError(f'module {self.__name__!r} has no attribute {name!r}')
        op = _replaced_op(name) if name in OPS else _missing_op(name)
        op.__name__ = op.__qualname__ = name
        setattr(self, name, op)
        return op


class _Finder(MetaPathFinder, Loader):
    """Finds ``mmcv._ext``, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _EXTENSION:
            return None
        return ModuleSpec(fullname, self, origin=__file__)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return StandIn(spec.name, 'Ops of mmcv, by resist_mm.ops')

    def exec_module(self, module: ModuleType) -> None:
        """The module is complete."""


def install() -> None:
    """Put the stand-in in the place of ``mmcv._ext`` for the rest of this process, unless Python finds one.

    Costs nothing until mmcv's ops are imported, and changes nothing where they are compiled: this finder is asked
    last. To be called before ``mmcv.ops`` or mmdet is imported; ``import resist_mm`` does.
    """
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())
