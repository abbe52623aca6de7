"""Parameters that share one flat tensor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

__all__ = ['FlatParameters', 'flatten_by_dtype']

# Vectorised kernels want aligned addresses; parameters of odd sizes go last.
ALIGNED_NUMEL = 64


class FlatParameters:
    """Parameters whose storage is one contiguous, one-dimensional tensor.

    The ``nn.Parameter`` objects stay the same, so optimizers, schedulers and the
    state dict notice nothing; they become views of ``flat``. What is sent or
    received over the network is ``flat`` itself: nothing is packed. The storage
    can be released, which leaves the parameters empty, and allocated again, so that
    a dropped block takes no memory.

    Strides are kept, so that parameters in ``channels_last`` stay in that format. The
    weights of convolutions and linear layers come first, ``num_weights`` numbers in all,
    then the few of norms and biases, which codecs leave alone.

    Args:
        params (Iterable[nn.Parameter]): At least one, all of one dtype and on one
            device.

    Raises:
        ValueError: If there is no parameter, or they differ in dtype or device.
    """

    def __init__(self, params: Iterable[nn.Parameter]) -> None:
        # sorted() is stable: within each group the model's order is kept
        self.params = sorted(params, key=lambda p: (p.dim() <= 1, p.numel() % ALIGNED_NUMEL != 0))
        # empty_like() keeps the strides of a dense tensor and makes any other one dense
        self._layouts = [(p.size(), torch.empty_like(p).stride(), p.numel()) for p in self.params]
        self.numel = sum(p.numel() for p in self.params)
        self.num_weights = sum(p.numel() for p in self.params if p.dim() > 1)
        self._flat: Tensor | None = None
        self._adopt_values()

    @property
    def nbytes(self) -> int:
        """Size in bytes, whether or not the storage is there."""
        return self.numel * self.params[0].dtype.itemsize

    @property
    def released(self) -> bool:
        """Whether the storage has been given up."""
        return self._flat is None

    @property
    def flat(self) -> Tensor:
        """The storage, of shape (numel,).

        If the data of parameters has been replaced in the meantime (by a cast or a move
        to another device), their values are first copied into one tensor again.

        Raises:
            RuntimeError: If the storage has been released.
            ValueError: If only some of the parameters were cast or moved.
        """
        if self._flat is None:
            raise RuntimeError('these parameters were dropped: their storage is released')
        if any(p.data_ptr() != view.data_ptr() for p, view in zip(self.params, self._views(), strict=True)):
            self._adopt_values()
        return self._flat

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the parameters."""
        return self.params[0].dtype

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return self.params[0].device

    def layouts(self) -> list[tuple[nn.Parameter, torch.Size, tuple[int, ...]]]:
        """The parameters, each with the shape and strides that it has while held."""
        return [(p, size, stride) for p, (size, stride, _) in zip(self.params, self._layouts, strict=True)]

    def release(self) -> None:
        """Release the storage: the parameters become empty and lose their gradients."""
        self._flat = None
        for p in self.params:
            p.data = torch.empty(0, dtype=p.dtype, device=p.device)
            p.grad = None

    def allocate(self) -> Tensor:
        """Allocate new storage, with undefined values, and return it.

        Raises:
            RuntimeError: If the storage is still there.
        """
        if self._flat is not None:
            raise RuntimeError('these parameters still have their storage')
        return self.replace(self._new_storage())

    def replace(self, storage: Tensor) -> Tensor:
        """Switch to other storage and the values in it; the old storage, if any, is released.

        Args:
            storage (Tensor): Of shape (numel,), with the dtype and device of the parameters.

        Returns:
            Tensor: The new storage.
        """
        self._flat = storage
        for p, view in zip(self.params, self._views(), strict=True):
            p.data = view
        return storage

    @torch.no_grad()
    def _adopt_values(self) -> None:
        self._flat = self._new_storage()
        for p, view in zip(self.params, self._views(), strict=True):
            view.copy_(p)
            p.data = view

    def _new_storage(self) -> Tensor:
        kinds = {(p.dtype, p.device) for p in self.params}
        if len(kinds) != 1:
            raise ValueError(
                f'parameters of one flat tensor need one dtype and one device, got {sorted(map(str, kinds))}'
            )
        ((dtype, device),) = kinds
        return torch.empty(self.numel, dtype=dtype, device=device)

    def _views(self) -> Iterator[Tensor]:
        assert self._flat is not None
        offset = 0
        for p_size, stride, numel in self._layouts:
            yield self._flat.as_strided(p_size, stride, offset)
            offset += numel


def flatten_by_dtype(params: Iterable[nn.Parameter]) -> list[FlatParameters]:
    """Put parameters into as few flat tensors as their dtypes and devices allow."""
    groups: dict[tuple, list[nn.Parameter]] = {}
    for p in params:
        groups.setdefault((p.dtype, p.device), []).append(p)
    return [FlatParameters(group) for group in groups.values()]
