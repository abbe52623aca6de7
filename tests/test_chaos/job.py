"""What a worker of a chaos run does: train, meet the faults of the plan, and note how it ended."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from resist_mm.analysis.benchmarks.shaped_links import Link, enter_namespace
from resist_mm.checkpoint import model_digest
from tests.toy import ToyData, ToyModel, toy_runner

from .plans import JOBS, Fault, Plan
from .points import watch
from .shared import Shared

__all__ = ['BALLAST', 'build_runner', 'die_with_parent', 'work']

BALLAST = 'ballast'
PR_SET_PDEATHSIG = 1
PAUSE_SEC = 1.0


def build_runner(
    work_dir: Path, name: str, hooks: list, resume: str | bool, keep_all: bool, iters: int | None = None
) -> Runner:
    """The Runner of a job; ``resume`` is a checkpoint, or whether to find one."""
    job = JOBS[name]
    hook = dict(bn_batches=2) | job.hook
    exact = [dict(type='resist_mm.ExactResumeHook')] if job.exact else []
    Visualizer._initialize_fig = _figure  # never drawn on, and a third of the time of a start
    ema = [dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.3)] if job.ema else []
    return toy_runner(
        work_dir,
        [hook, *ema, *exact, *hooks],
        ToyModel(stage_blocks=(1, 1, 5)),
        train_dataloader=dict(
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            dataset=ToyData(48),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=False, max_iters=iters or job.iters),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=4),
            checkpoint=dict(
                type='resist_mm.SafeCheckpointHook',
                by_epoch=False,
                interval=job.save_every,
                max_keep_ckpts=-1 if keep_all else 1,
                background=job.background,
            ),
        ),
        resume=bool(resume),
        load_from=resume if isinstance(resume, str) else None,
        experiment_name=f'run{os.getpid()}',
    )


_new_figure = Visualizer._initialize_fig
_figures: list[tuple] = []


def _figure(visualizer: Visualizer, config: dict) -> tuple:
    if not _figures:
        _figures.append(_new_figure(visualizer, config))
    return _figures[0]


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Let this process get a signal when the one that started it ends."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def work(
    rank: int,
    plan: Plan,
    attempt: int,
    folder: Path,
    shared: Shared,
    timeout_sec: float,
    address: str,
    resume: str | bool = False,
    keep_all: bool = False,
    link: Link | None = None,
    iters: int | None = None,
) -> None:
    """Train as one worker; ends the process.

    The work dir is ``folder/run``. How it ended is written to ``folder/ATTEMPT.RANK.json``, what it printed to
    ``.log`` beside it.
    """
    die_with_parent()
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever made networks handles them
        signal.signal(number, signal.SIG_DFL)
    out = folder / f'{attempt}.{rank}'
    log = os.open(out.with_suffix(f'.{rank}.log'), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if link is not None:
        enter_namespace(link)
    faults = Faults(rank, plan, attempt, shared, folder)
    num_workers = JOBS[plan.job].workers
    ended: dict[str, Any] = {}
    try:
        faults.reach('start')
        dist.init_process_group(
            'gloo',
            init_method=f'tcp://{address}',  # worker 0 keeps the store, as under torchrun
            rank=rank,
            world_size=num_workers,
            timeout=timedelta(seconds=timeout_sec),
        )
        watch(faults.reach, lambda iteration: setattr(shared, 'saved', iteration))
        runner = build_runner(folder / 'run', plan.job, [Watch(faults, shared)], resume, keep_all, iters)
        runner.train()
        ended.update(digest=_digest(runner), iteration=runner.iter)
        # as tools/train.py: worker 0 has written its last file
        dist.barrier()
        dist.destroy_process_group()
    except BaseException as error:
        ended.update(error=type(error).__name__, message=str(error))
        traceback.print_exc()
    note = out.with_suffix(f'.{rank}.json')
    note.with_suffix('.tmp').write_text(json.dumps(ended))
    note.with_suffix('.tmp').rename(note)  # the launcher may end this worker right now
    sys.exit('error' in ended)


class Faults:
    """The faults of a plan, as far as this worker notices them or does them to itself."""

    def __init__(self, rank: int, plan: Plan, attempt: int, shared: Shared, folder: Path) -> None:
        self.rank, self.shared, self.folder = rank, shared, folder
        self.mine: list[tuple[int, Fault]] = [
            (i, fault)
            for i, fault in enumerate(plan.faults)
            if fault.reached_by == rank and fault.attempt == attempt
        ]
        # a batch stays bad if it is read again: with 'drop' the restarted run has to leave it out again
        self.bad_iterations = [
            (i, fault.count)
            for i, fault in enumerate(plan.faults)
            if fault.kind == 'nan' and fault.worker == rank and (fault.attempt == attempt or stays_bad(plan))
        ]
        self._counts: Counter[str] = Counter()
        self._full = False
        self.model: torch.nn.Module | None = None

    def reach(self, point: str) -> None:
        """Something may go wrong here."""
        if self._full and point in ('save.write', 'save.name.write'):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._counts[point] += 1
        for i, fault in self.mine:
            if fault.point == point and fault.count == self._counts[point] and fault.kind != 'nan':
                self.shared.reach(i)
                if fault.inside:
                    self._hit(fault)

    def _hit(self, fault: Fault) -> None:
        if fault.kind == 'full':
            self._fill()
        elif fault.kind in ('kill', 'term'):
            os.kill(os.getpid(), signal.SIGKILL if fault.kind == 'kill' else signal.SIGTERM)
            time.sleep(1)  # a handler of SIGTERM may end it later
        elif fault.kind in ('stop', 'late', 'pause'):
            os.kill(os.getpid(), signal.SIGSTOP)
        elif fault.kind == 'alter':
            assert self.model is not None
            next(self.model.parameters()).data.view(-1)[0] += 1e-6
        elif fault.kind == 'damage':
            for path in (self.folder / 'run').glob('*.pth'):
                os.truncate(path, path.stat().st_size - 100)
        elif fault.kind == 'hang':
            time.sleep(3600)

    def _fill(self) -> None:
        """Fill the file system of the work dir; where it is not one of its own, only pretend to."""
        run = self.folder / 'run'
        if not os.path.ismount(run):
            self._full = True
            return
        with open(run / BALLAST, 'wb', buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError as error:
                assert error.errno == errno.ENOSPC


def stays_bad(plan: Plan) -> bool:
    """Whether bad numbers belong to the data, rather than happen once."""
    return JOBS[plan.job].hook.get('bad_numbers') == 'drop'


class Watch(Hook):
    """Tells how far a worker is, and spoils batches."""

    priority = 'VERY_HIGH'

    def __init__(self, faults: Faults, shared: Shared) -> None:
        self.faults, self.shared = faults, shared

    def before_train(self, runner: Runner) -> None:
        self.shared.resumed[self.faults.rank] = runner.iter + 1
        self.faults.model = runner.model

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.shared.iteration[self.faults.rank] = runner.iter + 1
        for i, iteration in self.faults.bad_iterations:
            if runner.iter + 1 == iteration:
                self.shared.reach(i)
                data_batch[0] = torch.full_like(data_batch[0], float('nan'))
        self.faults.reach('iteration')


def _digest(runner: Runner) -> str:
    """Of the model, and of its moving average."""
    model = getattr(runner.model, 'module', runner.model)
    checkpoint = dict(state_dict=model.state_dict())
    for hook in runner.hooks:
        if hasattr(hook, 'ema_model'):
            checkpoint['ema_state_dict'] = hook.ema_model.state_dict()
    return model_digest(checkpoint)
