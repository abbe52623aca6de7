"""What a worker has to do with the launcher that started it and may start it again."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

from mmengine.dist import all_gather_object

__all__ = ['LAUNCHER', 'begin_worker', 'resumes_by_itself']

# set by tools/_supervise.py: its process id, and a folder that lives as long as it does
LAUNCHER = 'RESIST_MM_LAUNCHER'
LAUNCHER_FOLDER = 'RESIST_MM_LAUNCHER_FOLDER'
PR_SET_PDEATHSIG = 1


def begin_worker() -> None:
    """Have the kernel kill this worker when its launcher dies; to be called first.

    torchrun stops its workers when it is told to stop, but not when it is killed. Only under torchrun: the signal
    follows the thread that started the process, which is the main one there, but not under every launcher. Linux
    only; elsewhere nothing is done.
    """
    if 'TORCHELASTIC_RUN_ID' not in os.environ or not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    launcher = os.environ.get(LAUNCHER)
    if launcher is not None and os.getppid() != int(launcher):  # it died before this was set
        sys.exit(f'the launcher, process {launcher}, is gone')


def resumes_by_itself() -> bool:
    """Whether this group of workers takes the place of one that was stopped; to be called once, by all workers.

    A launcher that has started workers before knows it, but one that has joined since does not, nor does torchrun
    count a restart because of a machine that joined (``TORCHELASTIC_RESTART_COUNT``). So all workers tell each
    other: one launcher that has started workers before is enough.

    Returns:
        bool: The same on all workers.
    """
    return any(all_gather_object(_launched_before()))


def _launched_before() -> bool:
    if int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0:
        return True
    folder = os.environ.get(LAUNCHER_FOLDER)
    if folder is None or int(os.environ.get('LOCAL_RANK', 0)) != 0:
        return False
    mark = Path(folder) / 'launched'
    if mark.exists():
        return True
    mark.touch()
    return False
