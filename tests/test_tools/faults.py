"""For configs of tests: a Runner that starts quickly, and workers that fail on purpose."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS, RUNNERS
from mmengine.runner import Runner

from tests.toy import ToyRunner

QuickRunner = RUNNERS.register_module(name='QuickRunner', module=ToyRunner)


@HOOKS.register_module()
class Fault(Hook):
    """Does something bad to one worker, once.

    Args:
        mark (str): File that is made then; it holds the worker's process id.
        at_iter (int): Before which iteration.
        what (str): 'kill', 'kill launcher', 'hang' or 'raise'.
        rank (int): To which worker. Defaults to 1.
    """

    def __init__(self, mark: str, at_iter: int, what: str, rank: int = 1) -> None:
        self.mark = Path(mark)
        self.at_iter = at_iter
        self.what = what
        self.rank = rank

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Strike."""
        chosen = os.environ.get('FAULTY', '1' if runner.rank == self.rank else '0') == '1'
        if not chosen or runner.iter != self.at_iter or self.mark.exists():
            return
        self.mark.write_text(str(os.getpid()))
        if self.what == 'raise':
            raise ArithmeticError('this worker fails on purpose')
        if self.what.startswith('kill'):
            os.kill(os.getppid() if self.what == 'kill launcher' else os.getpid(), signal.SIGKILL)
        time.sleep(600)
