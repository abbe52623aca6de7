"""Training in rounds, without a Runner: the engine, its protocols, and what travels."""

from .engine import Engine
from .guard import ExchangeRefused
from .health import BadNumbers
from .moving_average import MovingAverage, MovingStatistics
from .optimizer_state import OptimizerState
from .outer_step import OuterStep
from .part import Part, Parts
from .protocols import LocalSGD, ResIST, RoundProtocol
from .states import RunningStatistics, TravellingState, Weights
from .whereabouts import LostWorker

__all__ = [
    'BadNumbers',
    'Engine',
    'ExchangeRefused',
    'LocalSGD',
    'LostWorker',
    'MovingAverage',
    'MovingStatistics',
    'OptimizerState',
    'OuterStep',
    'Part',
    'Parts',
    'ResIST',
    'RoundProtocol',
    'RunningStatistics',
    'TravellingState',
    'Weights',
]
