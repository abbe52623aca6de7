"""Hooks that connect mmengine's Runner with the round engine."""

from .data_check import DataCheckHook
from .local_sgd_hook import LocalSGDHook
from .resist_hook import ResISTHook
from .round_hook import RoundHook

__all__ = ['DataCheckHook', 'LocalSGDHook', 'ResISTHook', 'RoundHook']
