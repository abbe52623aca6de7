"""Hooks that train in rounds: from the Runner's events to the engine."""

from .local_sgd_hook import LocalSGDHook
from .resist_hook import ResISTHook
from .round_hook import RoundHook

__all__ = ['LocalSGDHook', 'ResISTHook', 'RoundHook']
