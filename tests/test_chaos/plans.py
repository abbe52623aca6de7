"""What is trained, who is hit, how and when: drawn from a seed, without doing anything."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    'ALL',
    'EXCHANGE_POINTS',
    'GOES_ON',
    'JOBS',
    'KINDS',
    'LONG',
    'SABOTAGE',
    'SAVE_POINTS',
    'Fault',
    'Job',
    'Plan',
    'draw',
]

ALL = -1  # every worker of the job
# not drawn: for measuring goodput
LONG = 'resist, 4 workers, long'
GOES_ON = 'resist, 4 workers, goes on without lost ones'

# before a step of the exchange, or after one; `vote` is met twice in an exchange
EXCHANGE_POINTS = ('prepare', 'vote', 'voted', 'transfer', 'deliver', 'arrived', 'commit', 'committed', 'settle')
# of a checkpoint file; of the file that names the last checkpoint; and the removal of an old checkpoint
SAVE_POINTS = ('open', 'write', 'fsync', 'replace', 'folder', 'name.open', 'name.replace', 'prune')


@dataclass(frozen=True)
class Job:
    """A small training run.

    Attributes:
        hook: Type and arguments of the hook of rounds.
        workers: Number of workers.
        iters: Number of iterations.
        save_every: Number of iterations after which a checkpoint is saved.
        background: Whether training goes on meanwhile.
        ema: Whether there is a moving average of the weights.
        exact: Whether a resumed run has to be the same run (ExactResumeHook, as tools/train.py adds it).
    """

    hook: dict[str, Any]
    workers: int
    iters: int = 12
    save_every: int = 4
    background: bool = False
    ema: bool = False
    exact: bool = True


def _resist(**options: Any) -> dict[str, Any]:
    return dict(type='resist_mm.ResISTHook', local_iters=2, **options)


# a round is 2 iterations; blocks change hands after one, and for a checkpoint the model is made whole
JOBS = {
    'resist': Job(_resist(min_blocks=2, momentum_restart_interval=None, bn_batches=8), 2),
    'resist, average, in the background': Job(_resist(min_blocks=1), 3, background=True, ema=True),
    'resist, 4 workers, statistics travel': Job(
        _resist(min_blocks=2, bn='average', momentum_restart_interval=2), 4, iters=10, save_every=2
    ),
    'resist, 6 bits, warm-up': Job(
        _resist(min_blocks=2, warmup_rounds=1, codec=dict(type='quantize', bits=6)), 2, save_every=6
    ),
    'resist, top-k': Job(_resist(min_blocks=2, codec=dict(type='topk', share=0.25)), 3, save_every=6),
    'resist, bad rounds dropped': Job(_resist(min_blocks=2, bad_numbers='drop'), 3),
    'local SGD': Job(
        dict(type='resist_mm.LocalSGDHook', local_iters=2, momentum_restart_interval=None),
        2,
        ema=True,
        exact=False,
    ),
    'local SGD, in the background': Job(
        dict(type='resist_mm.LocalSGDHook', local_iters=2, bn='average'), 4, save_every=2, iters=8, background=True
    ),
    LONG: Job(dict(_resist(min_blocks=2), local_iters=10), 4, iters=10**6, save_every=20),
    GOES_ON: Job(
        dict(_resist(min_blocks=2), local_iters=10, on_worker_loss='continue'), 4, iters=10**6, save_every=20
    ),
}

# what must not happen, to see that it is noticed; not drawn
SABOTAGE = ('alter', 'damage', 'hang')
KINDS = ('kill', 'term', 'stop', 'late', 'pause', 'full', 'nan', 'cut', 'slow')


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        kind: 'kill' (SIGKILL), 'term' (SIGTERM), 'stop' (SIGSTOP, never continued), 'late' (SIGSTOP, continued
            once the others have ended), 'pause' (SIGSTOP for a moment), 'full' (no space left for checkpoints),
            'nan' (in a batch), 'cut' (nothing that the worker sends arrives), 'slow' (its link has a low rate).
            Of SABOTAGE: 'alter' (a weight), 'damage' (the checkpoints), 'hang' (for good).
        worker: Who is hit; ALL is the whole job.
        point: When: 'iteration', a step of an exchange ('exchange.vote') or of a save ('save.fsync').
        count: At which occurrence of the point in the process that reaches it, from 1.
        reached_by: The worker that reaches the point; another one than the one hit, or the whole job, is hit a
            moment later, wherever it is.
        delay_sec: How long after the point a signal comes from outside.
        attempt: In which start of the job, from 0.
    """

    kind: str
    worker: int
    point: str
    count: int
    reached_by: int
    delay_sec: float = 0.0
    attempt: int = 0

    @property
    def inside(self) -> bool:
        """Whether the worker does it to itself, exactly at the point."""
        return self.kind in ('nan', 'full', *SABOTAGE) or (self.worker == self.reached_by and self.delay_sec == 0)


@dataclass(frozen=True)
class Plan:
    """A run and what goes wrong in it.

    Attributes:
        seed: All else follows from it.
        job: Name of the job in JOBS.
        faults: What goes wrong.
        ends_others: Whether the launcher ends the others when a worker has ended, as torchrun does; otherwise they
            have to end by themselves, as on other machines.
        limit_sec: A start of the job that takes longer hangs.
    """

    seed: int
    job: str
    faults: tuple[Fault, ...] = field(default_factory=tuple)
    ends_others: bool = True
    limit_sec: float = 90.0


def draw(seed: int, links: bool = True) -> Plan:
    """The plan of a seed. Kinds, and the places where they hit, come in turn, so that few plans meet them all.

    Args:
        seed (int): From 0.
        links (bool): Whether networks can be made; without them nothing happens to links.
    """
    rng = random.Random(f'chaos {seed}')
    turn = (
        'kill',
        'kill',
        'stop',
        'kill',
        'term',
        'kill',
        'nan',
        'kill',
        'full',
        'late',
        'kill',
        'pause',
        'cut',
        'slow',
    )
    kind = turn[seed % len(turn)]
    if kind in ('cut', 'slow') and not links:
        kind = 'kill'
    names = [name for name in JOBS if name not in (LONG, GOES_ON)]
    name = names[rng.randrange(len(names))]
    faults = [_fault(rng, JOBS[name], kind, seed, attempt=0)]
    if kind in ('kill', 'term', 'stop', 'nan') and rng.random() < 0.4:
        second = rng.choice(('kill', 'kill', 'term', 'stop'))
        faults.append(_fault(rng, JOBS[name], second, rng.randrange(1000), attempt=1))
    return Plan(seed, name, tuple(faults), ends_others=rng.random() < 0.5)


def _fault(rng: random.Random, job: Job, kind: str, turn: int, attempt: int) -> Fault:
    worker = rng.randrange(job.workers)
    if kind in ('nan', 'cut', 'slow'):
        return Fault(kind, worker, 'iteration', rng.randrange(1, job.iters), worker, attempt=attempt)
    if kind == 'full':
        # before the last save
        return Fault(kind, 0, 'iteration', rng.randrange(1, job.iters - job.save_every), 0, attempt=attempt)
    where = ('exchange', 'save', 'moment')[turn % 3]
    if where == 'moment':
        # the first iterations after a restart: it may have few left
        last = job.iters if attempt == 0 else 3
        hit = ALL if kind in ('kill', 'term') and rng.random() < 0.25 else worker
        by = rng.randrange(job.workers)
        point = rng.choice(('iteration', 'iteration', 'iteration', 'start'))
        count = rng.randrange(1, last) if point == 'iteration' else 1
        return Fault(kind, hit, point, count, by, rng.uniform(0.001, 0.15), attempt)
    if where == 'exchange':
        step = rng.choice(EXCHANGE_POINTS)
        exchanges = job.iters // 2 if attempt == 0 else 1
        count = rng.randrange(1, exchanges + 1) * (2 if step in ('vote', 'voted') else 1)
        count -= rng.randrange(2) if step in ('vote', 'voted') else 0
        if step == 'settle':  # only for the whole model
            count = 1
        return Fault(kind, worker, f'exchange.{step}', count, worker, attempt=attempt)
    step = rng.choice(SAVE_POINTS)
    saves = job.iters // job.save_every if attempt == 0 else 1
    count = rng.randrange(1, saves + 1)
    if step == 'write':
        count = rng.randrange(1, 60)
    elif step == 'prune':
        count = 1
    # worker 0 saves: it is hit in the step, or another one or all are a moment later
    hit = rng.choice((0, 0, 0, worker, ALL)) if kind in ('kill', 'term') else rng.choice((0, 0, worker))
    return Fault(kind, hit, f'save.{step}', count, 0, 0.0 if hit == 0 else rng.uniform(0, 0.03), attempt)
