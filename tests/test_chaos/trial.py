"""Carries out a plan, with restarts, and checks that nothing is lost and nothing is wrong."""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from resist_mm.analysis.benchmarks.shaped_links import Link, shaped_links
from resist_mm.checkpoint import DIGEST_KEY, newest_whole, read_checkpoint

from .group import Attempt, run_group
from .job import BALLAST, stays_bad
from .links import RATE, repair_link
from .plans import JOBS, Plan
from .references import reference

__all__ = ['Result', 'carry_out']

TIMEOUT_SEC = 4.0  # of the process group
# a worker waits for a message, then tells the others that it has failed, then it ends
SOON_ENOUGH_SEC = 3 * TIMEOUT_SEC + 15
MOST_STARTS = 7
DISK_BYTES = 8_000_000
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000
# how a worker may say that it cannot go on
CLEAR = (
    ('BadNumbers', r'^round \d+: worker \d+: .*Training stops'),
    ('ExchangeRefused', r'worker [\d, ]+ failed while .*rolled back'),
    ('OSError', r'cannot be written|No space left'),
    # of gloo and of the rendezvous: another worker is gone, or does not answer in time
    (
        'RuntimeError|DistBackendError|DistNetworkError|DistStoreError|LostWorker',
        r'(?i)clos|reset|time.?out|timed out|is missing|lost another',
    ),
)


@dataclass
class Result:
    """What came of a plan.

    Attributes:
        seed: Of the plan.
        plan: In words.
        first: What happens first, for tables.
        problems: What was wrong; empty if nothing was.
        starts: How often the job was started.
        restarts: The iterations from which it was resumed.
        fired: The number of faults that were met.
        unplanned: Starts that failed although no fault was met in them.
        lost: Iterations that were begun and not saved, in all.
        run: Iterations that were begun, in all.
        end_sec: The longest time between a fault and the end of all workers.
        endings: The errors of workers.
        as_undisturbed: Whether the weights are also those of a run without restarts.
        seconds: All together, with the reference.
    """

    seed: int
    plan: str
    first: str
    problems: list[str] = field(default_factory=list)
    starts: int = 0
    restarts: list[int] = field(default_factory=list)
    fired: int = 0
    unplanned: int = 0
    lost: int = 0
    run: int = 0
    end_sec: float = 0.0
    endings: list[str] = field(default_factory=list)
    as_undisturbed: bool | None = None
    seconds: float = 0.0


def carry_out(plan: Plan, folder: Path, references: Path) -> Result:
    """Carry out a plan in a folder; undisturbed runs to compare with are kept in another one."""
    result, began = new_result(plan), time.monotonic()
    needs_links = any(fault.kind in ('cut', 'slow') for fault in plan.faults)
    (folder / 'run').mkdir(parents=True)
    networks = shaped_links(JOBS[plan.job].workers, RATE) if needs_links else nullcontext(None)
    with networks as links:
        if any(fault.kind == 'full' for fault in plan.faults):
            _small_disk(folder / 'run')
        digest = _run_to_the_end(plan, folder, references, links, result)
        if os.path.ismount(folder / 'run'):
            subprocess.run(['umount', '-l', folder / 'run'], check=False)
    if digest is not None:
        _, expected = reference(plan, tuple(result.restarts), references)
        if digest != expected:
            result.problems.append(
                f'wrong weights: {digest[:12]}, those of the undisturbed run are {expected[:12]}'
            )
        result.as_undisturbed = digest == reference(plan, (), references)[1]
        if JOBS[plan.job].exact and not result.as_undisturbed:
            result.problems.append('the weights are not those of a run without restarts')
    result.seconds = time.monotonic() - began
    return result


def new_result(plan: Plan, *problems: str) -> Result:
    """Of a plan that has not been carried out."""
    fault = plan.faults[0]
    return Result(plan.seed, in_words(plan), f'{fault.kind}, {fault.point.split(".")[0]}', list(problems))


def in_words(plan: Plan) -> str:
    """A plan in a line."""
    faults = []
    for fault in plan.faults:
        hit = 'all' if fault.worker < 0 else f'worker {fault.worker}'
        later = f' + {fault.delay_sec * 1000:.0f} ms' if fault.delay_sec else ''
        start = f', start {fault.attempt}' if fault.attempt else ''
        faults.append(
            f'{fault.kind} {hit} at {fault.point} #{fault.count} of worker {fault.reached_by}{later}{start}'
        )
    others = 'the launcher ends the others' if plan.ends_others else 'the others end by themselves'
    return f'{plan.job}: {"; ".join(faults)}; {others}'


def _run_to_the_end(
    plan: Plan, folder: Path, references: Path, links: list[Link] | None, result: Result
) -> str | None:
    """Start the job until it is complete; the digest of its weights, or None."""
    fired: set[int] = set()
    kept = 0  # the iteration of the newest checkpoint
    for attempt in range(MOST_STARTS):
        start = run_group(plan, attempt, folder, TIMEOUT_SEC, kept > 0, links)
        result.starts += 1
        result.end_sec = max(result.end_sec, start.end_sec if not start.complete and start.fired else 0)
        result.unplanned += not start.complete and not start.fired
        result.run += max(0, start.reached - kept)
        fired |= set(start.fired)
        result.fired = len(fired)
        result.problems += _check_end(plan, start, kept)
        result.endings += [f'{e["error"]}: {e["message"]}' for e in start.endings if 'error' in e]
        if start.complete:
            digests = {ending['digest'] for ending in start.endings}
            if len(digests) > 1:
                result.problems.append('the workers do not have the same weights at the end')
            result.problems += _check_leftovers(folder / 'run')
            return digests.pop()
        (folder / 'run' / BALLAST).unlink(missing_ok=True)  # somebody makes room
        if links:
            for worker in range(len(links)):
                repair_link(links, worker)
        found, problems = _check_disk(folder / 'run', max(kept, start.saved))
        result.problems += problems
        result.lost += max(0, start.reached - max(found, kept))
        if found and found != kept:
            expected, _ = reference(plan, tuple(result.restarts), references)
            newest, _ = newest_whole(folder / 'run')
            if read_checkpoint(newest)['meta'][DIGEST_KEY] != expected[found]:
                result.problems.append(f'the checkpoint of iteration {found} has wrong weights')
            result.restarts.append(found)
        kept = found
        if result.problems:
            return None
    result.problems.append(f'not complete after {MOST_STARTS} starts')
    return None


def _check_end(plan: Plan, start: Attempt, kept: int) -> list[str]:
    problems = [f'worker {rank} did not end by itself' for rank in start.hung]
    if start.fired and not start.complete and start.end_sec > SOON_ENOUGH_SEC:
        problems.append(f'the workers ended only after {start.end_sec:.1f} s')
    if start.resumed not in (None, kept):
        problems.append(f'resumed from iteration {start.resumed}, but the newest checkpoint is that of {kept}')
    for rank, ending in enumerate(start.endings):
        if 'error' in ending and not any(
            re.fullmatch(kind, ending['error']) and re.search(text, ending['message']) for kind, text in CLEAR
        ):
            problems.append(f'worker {rank} ended with an unclear error: {ending["error"]}: {ending["message"]}')
    bad = [plan.faults[i] for i in start.fired if plan.faults[i].kind == 'nan']
    if bad and not stays_bad(plan) and not start.complete:
        told = [ending['message'] for ending in start.endings if ending.get('error') == 'BadNumbers']
        if not any(f'worker {fault.worker}: NaN in' in message for fault in bad for message in told):
            problems.append('no error names the worker with bad numbers')
    return problems


def _check_disk(run: Path, at_least: int) -> tuple[int, list[str]]:
    """The iteration of the newest checkpoint, 0 if there is none; and what is wrong with what is on the disk."""
    newest, passed_over = newest_whole(run)
    problems = [f'a damaged checkpoint: {reason}' for reason in passed_over]
    if newest is None:
        return 0, problems + ([f'no checkpoint, but that of iteration {at_least} was saved'] if at_least else [])
    checkpoint = read_checkpoint(newest)
    iteration = checkpoint['meta']['iter']
    if iteration < at_least:
        problems.append(f'the newest checkpoint is that of iteration {iteration}, but {at_least} was saved')
    for part, values in checkpoint.items():
        if part.endswith('state_dict') and any(
            value.is_floating_point() and not value.isfinite().all()
            for value in values.values()
            if isinstance(value, torch.Tensor)
        ):
            problems.append(f'numbers in {part} of {newest.name} are not finite')
    return iteration, problems


def _check_leftovers(run: Path) -> list[str]:
    """With ``max_keep_ckpts=1`` there is one checkpoint, or two if a run was killed before it removed one."""
    unfinished = [path.name for path in run.glob('*.tmp')]
    kept = sorted(path.name for path in run.glob('*.pth'))
    problems = [f'unfinished files are left: {unfinished}'] if unfinished else []
    return problems + ([f'checkpoints are left: {kept}'] if not 1 <= len(kept) <= 2 else [])


def _small_disk(run: Path) -> None:
    """Put the work dir on a file system of its own, which disappears with this process; needs root."""
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    options = f'size={DISK_BYTES}'.encode()
    if libc.unshare(CLONE_NEWNS) or libc.mount(b'none', b'/', None, MS_REC | MS_PRIVATE, None):
        return
    libc.mount(b'tmpfs', os.fsencode(run), b'tmpfs', 0, options)


def as_json(result: Result) -> str:
    return json.dumps(asdict(result))
