"""Predicts how long a run takes and what it sends, by protocol, codec and length of a round."""

from .choice import choose
from .link import LinkSpeed
from .seconds import Costs, Work
from .settings import Setting, settings_of

__all__ = ['Costs', 'LinkSpeed', 'Setting', 'Work', 'choose', 'settings_of']
