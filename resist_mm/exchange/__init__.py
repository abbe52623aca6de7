"""How parameters move between the workers at the end of a round."""

from .codec import Codec, build_codec
from .parcel import Parcel
from .plan import ExchangePlan, Transfer
from .transport import BlockStore, Traffic, Transport, all_reduce_bytes

__all__ = [
    'BlockStore',
    'Codec',
    'ExchangePlan',
    'Parcel',
    'Traffic',
    'Transfer',
    'Transport',
    'all_reduce_bytes',
    'build_codec',
]
