"""How parameters move between the workers at the end of a round."""

from .plan import ExchangePlan, Transfer
from .transport import Traffic, Transport

__all__ = ['ExchangePlan', 'Traffic', 'Transfer', 'Transport']
