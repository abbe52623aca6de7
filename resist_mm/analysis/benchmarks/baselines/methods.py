"""The methods that are compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from .costs import Costs, averaged, data_parallel, rounds
from .running import Rounds, Running, Setup
from .torch_methods import Averaged, DataParallel

__all__ = ['METHODS', 'Method']

OUTER = dict(type='SGD', lr=0.7, momentum=0.9, nesterov=True)
CHANGES = dict(type='changes', bits=2)


@dataclass(frozen=True)
class Method:
    """One of them.

    Attributes:
        title: In a table.
        build: Sets it up on this worker.
        costs: What its iterations consist of.
        lr_factor: Of the config's learning rate.
        ours: Whether it is found nowhere else than in this package.
        timed: Whether it has costs of its own.
    """

    title: str
    build: Callable[[Setup], Running]
    costs: Costs
    lr_factor: float = 1.0
    ours: bool = False
    timed: bool = True


def _ddp(title: str, cost: str = 'data-parallel', lr_factor: float = 1.0, **options: Any) -> Method:
    costs = data_parallel(cost, warm_up='rank' in options)
    return Method(title, partial(DataParallel, **options), costs, lr_factor, timed=lr_factor == 1)


def _averaged(title: str, warm_up: bool = False, pairs: bool = False) -> Method:
    build = partial(Averaged, warm_up=warm_up, pairs=pairs)
    return Method(title, build, averaged(warm_up, pairs), timed=not warm_up)


def _rounds(name: str, title: str, deals: bool = False, ours: bool = True, **options: Any) -> Method:
    build = partial(Rounds, name=name, deals=deals, **options)
    return Method(title, build, rounds(name, deals, deals or 'codec' in options), ours=ours)


METHODS: dict[str, Method] = dict(
    ddp=_ddp('DDP'),
    ddp_lr4=_ddp('DDP, 4 times the learning rate', lr_factor=4.0),
    ddp_bf16=_ddp('DDP, bf16 hook', 'data-parallel, bf16', hook='bf16'),
    powersgd_1=_ddp('DDP, PowerSGD of rank 1', 'PowerSGD 1', hook='powersgd', rank=1),
    powersgd_4=_ddp('DDP, PowerSGD of rank 4', 'PowerSGD 4', hook='powersgd', rank=4),
    post_local_sgd=_averaged('post-local SGD', warm_up=True),
    averager=_averaged('periodic averager'),
    hierarchical=_averaged('hierarchical averager', pairs=True),
    local_sgd=_rounds('local_sgd', 'local SGD', ours=False),
    diloco=_rounds('diloco', 'DiLoCo', ours=False, outer=OUTER),
    local_sgd_best=_rounds('local_sgd_best', 'DiLoCo, changes at 2 bits', outer=OUTER, codec=CHANGES),
    resist=_rounds('resist', 'ResIST', deals=True),
    resist_best=_rounds('resist_best', 'ResIST, outer step, changes at 2 bits', True, outer=OUTER, codec=CHANGES),
)
