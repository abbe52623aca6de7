"""How parameters move between the workers at the end of a round."""

from .plan import ExchangePlan, Transfer
from .transport import BlockStore, Traffic, Transport, all_reduce_bytes

__all__ = ['BlockStore', 'ExchangePlan', 'Traffic', 'Transfer', 'Transport', 'all_reduce_bytes']
