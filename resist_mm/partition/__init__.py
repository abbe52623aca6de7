"""Who holds which partitioned block in a round. Pure Python, no tensors."""

from .assignment import Assignment
from .hands import check_hands, hands_for
from .sampler import PartitionSampler
from .speeds import Measured, Speeds

__all__ = [
    'Assignment',
    'Measured',
    'PartitionSampler',
    'Speeds',
    'check_hands',
    'hands_for',
]
