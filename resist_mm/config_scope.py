"""Makes ``_base_ = 'resist_mm::...'`` known to mmengine, which lists the packages that may be inherited from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

__all__ = ['register_config_scope']

_TABLE = 'mmengine.config.utils'


def register_config_scope() -> None:
    """Enters ``resist_mm`` into mmengine's table of packages: now, or when mmengine is imported.

    mmengine is not imported for it, which takes seconds.
    """
    if _TABLE in sys.modules:
        _enter(sys.modules[_TABLE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _enter(module: ModuleType) -> None:
    module.MODULE2PACKAGE.setdefault('resist_mm', 'resist_mm')


class _Finder(MetaPathFinder):
    """Loads the module of the table in the usual way, then enters the package."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _TABLE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.loader is None:
            return None
        load = spec.loader.exec_module

        def load_and_enter(module: ModuleType) -> None:
            load(module)
            _enter(module)

        spec.loader.exec_module = load_and_enter  # type: ignore[method-assign]
        return spec
