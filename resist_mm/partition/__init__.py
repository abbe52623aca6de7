"""Who holds which partitioned block in a round. Pure Python, no tensors."""

from .assignment import Assignment
from .sampler import PartitionSampler

__all__ = ['Assignment', 'PartitionSampler']
