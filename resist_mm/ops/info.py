"""What mmcv says about its compiler, for reports on the environment."""

from __future__ import annotations

__all__ = ['get_compiler_version', 'get_compiling_cuda_version']


def get_compiler_version() -> str:
    """Instead of the compiler: who computes the ops."""
    import torchvision

    return f'none, ops by resist_mm on torchvision {torchvision.__version__}'


def get_compiling_cuda_version() -> str:
    """torch's version of CUDA, which the ops run with; as mmcv says it where there is none."""
    import torch

    return torch.version.cuda or 'not available'
