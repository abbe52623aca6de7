"""Lets a script import pure modules of resist_mm without the rest of it.

``import resist_mm`` registers everything, and so imports mmdet: many seconds. To be
imported before any module of resist_mm; :func:`import_all` makes up for it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

import _clone  # noqa: F401

_PACKAGES = ['resist_mm', 'resist_mm.exchange']


def _put_off() -> None:
    for name in _PACKAGES:
        spec = find_spec(name)
        assert spec is not None
        sys.modules[name] = module_from_spec(spec)  # knows its folder; its __init__ has not run


def import_all() -> None:
    """Run what was put off: import all of resist_mm."""
    for name in reversed(_PACKAGES):
        package = sys.modules[name]
        if package.__spec__ is not None and package.__spec__.loader is not None and '__all__' not in vars(package):
            package.__spec__.loader.exec_module(package)


if 'resist_mm' not in sys.modules:
    _put_off()
