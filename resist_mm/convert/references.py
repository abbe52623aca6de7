"""Values that a config sets once and uses in many places: ``scale='${image_size}'``."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config

__all__ = ['references_in', 'resolve_references']

REFERENCE = re.compile(r'\$\{\s*(?:(?P<count>len)\(\s*(?P<counted>[\w.]+)\s*\)|(?P<key>[\w.]+))\s*\}')


def resolve_references(cfg: Config) -> None:
    """Replace every ``'${key}'`` in a config by the value of that key, in place.

    mmengine computes a base file before it reads the file that inherits it, so a value set there cannot reach what
    the base has computed. A reference can: it is replaced when the config is complete, ``--cfg-options`` included.
    The notation is that of ``mmdet.utils.replace_cfg_vals``; in addition there is ``'${len(key)}'``.

    Args:
        cfg (Config): The config. A string that is one reference becomes the value itself, of any type; inside a
            longer string the value is written out. Values may contain references.

    Raises:
        ValueError: If a key that is referred to is not set, refers to itself, cannot be written into a string, or
            has no length.
    """
    root = cfg._cfg_dict
    for key, value in list(dict.items(root)):  # dict's own: those of ConfigDict import what a lazy config names
        dict.__setitem__(root, key, _resolved(root, value, key, ()))


def references_in(value: Any) -> set[str]:
    """The keys of the config, at its top level, that a part of it refers to."""
    if isinstance(value, dict):
        return set().union(*map(references_in, dict.values(value)))
    if isinstance(value, list | tuple):
        return set().union(*map(references_in, value))
    found = REFERENCE.finditer(value) if isinstance(value, str) else ()
    return {(match['key'] or match['counted']).partition('.')[0] for match in found}


def _resolved(root: Mapping[str, Any], value: Any, place: str, trail: tuple[str, ...]) -> Any:
    """The value without references.

    Args:
        root (Mapping): The whole config.
        value (Any): What is at ``place``.
        place (str): Where it is, for errors.
        trail (tuple[str]): The references that have led here.
    """
    if isinstance(value, dict):
        for key, inner in list(dict.items(value)):
            dict.__setitem__(value, key, _resolved(root, inner, f'{place}.{key}', trail))
        return value
    if isinstance(value, list | tuple):
        return type(value)(_resolved(root, inner, f'{place}.{i}', trail) for i, inner in enumerate(value))
    if not isinstance(value, str) or '${' not in value:
        return value
    whole = REFERENCE.fullmatch(value)
    if whole:
        return _looked_up(root, whole, place, trail)

    def written(match: re.Match) -> str:
        found = _looked_up(root, match, place, trail)
        if not isinstance(found, str | int | float):
            raise ValueError(f'{place} is {value!r}, but {match[0]} is no text or number: it is {found!r}')
        return str(found)

    return REFERENCE.sub(written, value)


def _looked_up(root: Mapping[str, Any], match: re.Match, place: str, trail: tuple[str, ...]) -> Any:
    key = match['key'] or match['counted']
    if key in trail:
        raise ValueError(f'{place} refers to itself: {" -> ".join((*trail, key))}')
    found: Any = root
    for name in key.split('.'):
        if not isinstance(found, Mapping) or name not in found:
            raise ValueError(f'{place} refers to {match[0]}, but the config does not set {key}')
        found = found[name]
    found = _resolved(root, copy.deepcopy(found), place, (*trail, key))
    return _count(key, found) if match['count'] else found


def _count(key: str, found: Any) -> int:
    """The number of items of a list, most often of names of classes."""
    example = f"write {key} = ('apple', 'pear'), with a comma behind a single one: ('apple',)"
    if not isinstance(found, list | tuple):
        raise ValueError(f'{key} must be a list or tuple, got {found!r}: {example}')
    if not found:
        raise ValueError(f'{key} is empty: set it in your config. For names, {example}')
    return len(found)
