"""Memory for large flat tensors."""

from __future__ import annotations

import ctypes
import sys

import torch
from torch import Tensor

__all__ = ['empty_flat', 'return_freed_memory']

HUGE_PAGE = 2 << 20
MADV_HUGEPAGE = 14


def empty_flat(numel: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """An uninitialised tensor of shape (numel,).

    In host memory a large one is laid in huge pages where Linux has them: else its first use costs several times
    what copying into it does, because the kernel hands it out in pieces of 4 KiB. A GPU's memory comes from
    torch's cache.
    """
    tensor = torch.empty(numel, dtype=dtype, device=device)
    if tensor.device.type == 'cpu' and sys.platform == 'linux' and tensor.nbytes >= 2 * HUGE_PAGE:
        first = -(-tensor.data_ptr() // HUGE_PAGE) * HUGE_PAGE
        length = (tensor.data_ptr() + tensor.nbytes - first) // HUGE_PAGE * HUGE_PAGE
        # advice: where the kernel does not take it, nothing changes
        ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(length), MADV_HUGEPAGE)
    return tensor


def return_freed_memory(device: torch.device) -> None:
    """Give what this process has freed in host memory back to the kernel, before large tensors are made there.

    glibc keeps the holes that gradients leave between other tensors; a large tensor does not fit into them and
    takes new memory, so that a worker would need both. Other C libraries are left as they are, and so is torch's
    cache of a GPU.
    """
    if device.type == 'cpu' and sys.platform == 'linux':
        trim = getattr(ctypes.CDLL(None), 'malloc_trim', None)
        if trim is not None:
            trim(ctypes.c_size_t(0))
