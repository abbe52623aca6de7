"""How parameters move between the workers at the end of a round."""

from .codec import Codec
from .message import Form, Payload
from .plan import ExchangePlan, Transfer
from .traffic import Payloads, Traffic
from .transport import Transport
from .wire import all_reduce_bytes

__all__ = [
    'Codec',
    'ExchangePlan',
    'Form',
    'Payload',
    'Payloads',
    'Traffic',
    'Transfer',
    'Transport',
    'all_reduce_bytes',
]
