"""How a run ends that fails: what is printed, and what the launcher learns."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from torch.distributed.elastic.multiprocessing.errors import record

__all__ = ['end_with', 'record_failures']

OTHERS_WAIT_SEC = 20
ERROR_FILE = 'TORCHELASTIC_ERROR_FILE'


def record_failures(main: Callable[[], None]) -> Callable[[], None]:
    """Have an error that ends ``main`` reported to torchrun; a decorator."""
    return record(main) if ERROR_FILE in os.environ else main


def end_with(error: Exception) -> NoReturn:
    """Exit with an error that the user can fix, printed once per machine and without a traceback.

    For errors that occur on all workers of a machine. All but the first worker wait, so
    that the launcher does not kill the first one before it has printed the error.
    """
    if _rank_on_this_machine() != 0:
        time.sleep(OTHERS_WAIT_SEC)
        sys.exit(1)
    text = f'{type(error).__name__}: {error}'
    report = os.environ.get(ERROR_FILE)
    if report is not None:
        # as torchrun's record() does, but the traceback would appear in torchrun's own report
        extra = dict(py_callstack=text, timestamp=str(int(time.time())))
        Path(report).write_text(json.dumps(dict(message=dict(message=text, extraInfo=extra))))
    sys.exit(text)


def _rank_on_this_machine() -> int:
    # LOCAL_RANK comes from torchrun only if RANK is set too: the scripts also set it, for mmengine
    names = ('LOCAL_RANK',) if 'RANK' in os.environ else ('SLURM_LOCALID', 'OMPI_COMM_WORLD_LOCAL_RANK')
    return next((int(os.environ[name]) for name in names if name in os.environ), 0)
