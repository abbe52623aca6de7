"""Hooks that connect mmengine's Runner with the round engine."""

from .cpu_seconds_hook import CPUSecondsHook
from .data_check import DataCheckHook
from .exact_resume import ExactResumeHook
from .local_sgd_hook import LocalSGDHook
from .resist_hook import ResISTHook
from .round_hook import RoundHook
from .safe_checkpoint import SafeCheckpointHook
from .schedules import CannotResume
from .start_of_run import begin_run

__all__ = [
    'CPUSecondsHook',
    'CannotResume',
    'DataCheckHook',
    'ExactResumeHook',
    'LocalSGDHook',
    'ResISTHook',
    'RoundHook',
    'SafeCheckpointHook',
    'begin_run',
]
