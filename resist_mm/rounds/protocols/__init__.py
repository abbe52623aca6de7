"""Protocols of rounds, one file each."""

from .local_sgd import LocalSGD
from .protocol import RoundProtocol
from .resist import ResIST
from .stepped import SteppedProtocol

__all__ = ['LocalSGD', 'ResIST', 'RoundProtocol', 'SteppedProtocol']
