"""The communication cost of training, computed before anything runs."""

from .network_size import NetworkSize, PartSize
from .protocols import ddp_cost, gpipe_cost, local_sgd_cost, resist_cost, warmup_cost
from .round_cost import RoundCost, Schedule

__all__ = [
    'NetworkSize',
    'PartSize',
    'RoundCost',
    'Schedule',
    'ddp_cost',
    'gpipe_cost',
    'local_sgd_cost',
    'resist_cost',
    'warmup_cost',
]
