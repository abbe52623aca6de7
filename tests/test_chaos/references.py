"""Undisturbed runs to compare with, which are carried out once."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from resist_mm.checkpoint import DIGEST_KEY, read_checkpoint

from .group import run_group
from .job import stays_bad
from .plans import JOBS, Plan

__all__ = ['reference']

TIMEOUT_SEC = 60.0


def reference(plan: Plan, restarts: tuple[int, ...], references: Path) -> tuple[dict[int, str], str]:
    """The digests of the checkpoints, by iteration, and of the final weights, of a run that is not disturbed.

    It is restarted at the same iterations, each time from the checkpoint of a reference.
    """
    faults = tuple(fault for fault in plan.faults if fault.kind == 'nan' and stays_bad(plan))
    undisturbed = Plan(plan.seed, plan.job, faults)
    name = f'{plan.job}; {[(f.worker, f.count) for f in faults]}'
    of_job = references / f'{sorted(JOBS).index(plan.job)}_{"_".join(f"{f.worker}.{f.count}" for f in faults)}'
    folder = of_job / '-'.join(['0', *map(str, restarts)])
    of_job.mkdir(parents=True, exist_ok=True)
    done = folder / 'digests.json'
    resume: str | bool = False
    if restarts:
        reference(plan, restarts[:-1], references)
        before = of_job / '-'.join(['0', *map(str, restarts[:-1])])
        resume = str(before / 'run' / f'iter_{restarts[-1]}.pth')
    with _alone(of_job / 'lock'):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a series that was ended
            (folder / 'run').mkdir(parents=True)
            start = run_group(undisturbed, 0, folder, TIMEOUT_SEC, resume, keep_all=True)
            digests = {ending.get('digest') for ending in start.endings}
            if not start.complete or len(digests) != 1:
                raise RuntimeError(f'the undisturbed run of {name} has failed: {start.endings}')
            saved = {
                path.stem.removeprefix('iter_'): read_checkpoint(path)['meta'][DIGEST_KEY]
                for path in (folder / 'run').glob('iter_*.pth')
            }
            done.write_text(json.dumps([saved, digests.pop()]))
    saved, final = json.loads(done.read_text())
    return {int(iteration): digest for iteration, digest in saved.items()}, final


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    with open(lock, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
