"""Wrappers for mmengine's Runner: of models and of optimizers."""

from .bf16_optim_wrapper import BF16OptimWrapper
from .local_model import LocalModel, not_distributed

__all__ = ['BF16OptimWrapper', 'LocalModel', 'not_distributed']
