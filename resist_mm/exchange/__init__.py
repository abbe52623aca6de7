"""How parameters move between the workers at the end of a round."""

from .codec import Codec, build_codec
from .cost import (
    RoundCost,
    Schedule,
    ddp_cost,
    gpipe_cost,
    local_sgd_cost,
    resist_cost,
    warmup_cost,
)
from .network_size import NetworkSize, PartSize
from .parcel import Parcel
from .plan import ExchangePlan, Transfer
from .transport import BlockStore, Traffic, Transport, all_reduce_bytes

__all__ = [
    'BlockStore',
    'Codec',
    'ExchangePlan',
    'NetworkSize',
    'Parcel',
    'PartSize',
    'RoundCost',
    'Schedule',
    'Traffic',
    'Transfer',
    'Transport',
    'all_reduce_bytes',
    'build_codec',
    'ddp_cost',
    'gpipe_cost',
    'local_sgd_cost',
    'resist_cost',
    'warmup_cost',
]
