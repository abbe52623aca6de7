"""Checks of arguments, for messages that name them."""

from __future__ import annotations

from math import inf
from typing import Any

__all__ = ['check_choice', 'check_count', 'check_flag', 'check_integer', 'check_keeps_momentum', 'is_number']


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Refuse a value that is not an integer of at least ``least``.

    Raises:
        ValueError: Naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f'{name} must be an integer of at least {least}, got {value!r}')


def check_integer(name: str, value: Any) -> None:
    """Refuse a value that is not an integer.

    Raises:
        ValueError: Naming it.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f'{name} must be an integer, got {value!r}')


def check_choice(name: str, value: Any, first: str, second: str) -> None:
    """Refuse a value that is neither of two.

    Raises:
        ValueError: Naming it.
    """
    if value not in (first, second):
        raise ValueError(f'{name} must be {first!r} or {second!r}, got {value!r}')


def check_flag(name: str, value: Any) -> None:
    """Refuse a value that is neither True nor False.

    Raises:
        ValueError: Naming it.
    """
    if not isinstance(value, bool):
        raise ValueError(f'{name} must be True or False, got {value!r}')


def check_keeps_momentum(name: str, keeps: Any, restart_interval: int | None) -> None:
    """Refuse ``keep_shared_momentum`` if it is no flag, or no momentum restarts.

    Raises:
        ValueError: Naming it.
    """
    check_flag(name, keeps)
    if keeps and restart_interval is None:
        raise ValueError(
            f'{name}=True spares the shared part the momentum restart, but with momentum_restart_interval=None '
            'there is none, and momentum travels: set a number of rounds, such as 1'
        )


def is_number(value: Any) -> bool:
    """Whether a value is a finite number, and no bool."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -inf < value < inf
