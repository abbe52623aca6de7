"""Model wrappers for mmengine's Runner."""

from .local_model import LocalModel, not_distributed

__all__ = ['LocalModel', 'not_distributed']
