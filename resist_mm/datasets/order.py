"""Which batch comes when in training, and which random numbers its samples are augmented with."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data._utils.fetch import _MapDatasetFetcher

__all__ = ['DataOrder', 'SeededIndex', 'seeded_by']


class SeededIndex(int):
    """An index of a data set that carries what its sample is seeded by."""

    key: tuple[int, ...] = ()


class DataOrder:
    """The order of a training loader: seeds its samples, and starts it anywhere without loading anything.

    A sample is augmented with random numbers that depend on the seed, the number of the pass through the data, the
    worker, and the position in the pass; not on the number of loader processes, nor on what was loaded before.
    The objects stay the same, and so do their names: only the classes of the loader's batch sampler and data set
    become subclasses. Mode and pipeline switches keep working.

    What does not hold: transforms that remember images (``CachedMosaic``, ``CachedMixUp``) depend on what was
    loaded before, and a transform with a random generator of its own is not seeded.

    Args:
        loader (DataLoader): Not iterated so far, of a data set with indices.
        seed (int): Of the run, at least 0.
        rank (int): Of this worker.
    """

    def __init__(self, loader: DataLoader, seed: int, rank: int) -> None:
        self.loader, self.seed, self.rank = loader, seed, rank
        self.passes = 0
        self._waiting: Iterator | None = None
        batches: Any = loader.sampler if loader.batch_sampler is None else loader.batch_sampler
        batches._resist_mm_order, self._batches = self, batches
        self.sampler: Any = getattr(self._batches, 'sampler', self._batches)
        _change_class(self._batches, _ordered)
        with suppress(TypeError):  # a list, which augments nothing
            _seed_data_set(loader.dataset)

    def go_to_epoch(
        self, epoch: int, done: int, keep: int = 0, reshuffles: bool = True, used: Sequence[int] | None = None
    ) -> list[Any]:
        """Let the loader begin inside an epoch.

        Args:
            epoch (int): From 0.
            done (int): How many of its batches are done.
            keep (int): How many of the batches before that are wanted. Defaults to 0.
            reshuffles (bool): Whether ``set_epoch`` of the sampler is called for each epoch. Defaults to True.
            used (Sequence[int], optional): How many batches were used of the epochs before, the last one last.
                Defaults to None: all of them.

        Returns:
            list: The indices of the last ``keep`` batches before, less at the beginning.
        """
        recent: deque[Any] = deque(maxlen=keep)
        used_of = {epoch: done, **{epoch - i: count for i, count in enumerate(reversed(used or ()), start=1)}}
        earlier = max(0, -(-(keep - done) // max(1, len(self.loader)))) if used is None else len(used)
        for number in range(max(0, epoch - earlier), epoch + 1):
            self._begin_pass(number, reshuffles)
            batches = iter(self._batches)
            recent.extend(islice(batches, used_of.get(number)))
            if number == epoch and done:
                self._waiting = batches
        return list(recent)

    def go_to_iter(self, done: int, keep: int = 0) -> list[Any]:
        """Let the loader begin after a number of batches, through all passes.

        Args:
            done (int): Number of batches.
            keep (int): As in :meth:`go_to_epoch`.

        Returns:
            list: As in :meth:`go_to_epoch`.
        """
        recent: deque[Any] = deque(maxlen=keep)
        batches, in_pass = iter(self._batches), 0
        while done:
            found = next(batches, None)
            if found is not None:
                recent.append(found)
                done, in_pass = done - 1, in_pass + 1
            elif in_pass:
                self._begin_pass(self.passes, True)  # the end of a pass has counted
                batches, in_pass = iter(self._batches), 0
            else:
                break  # an empty set
        self._waiting = batches
        return list(recent)

    def load(self, batches: Sequence[Any]) -> list[Any]:
        """Load batches, given by their indices, in this process."""
        loader = self.loader
        fetcher = _MapDatasetFetcher(
            loader.dataset, loader.batch_sampler is not None, loader.collate_fn, drop_last=False
        )
        return [fetcher.fetch(batch) for batch in batches]

    def indices(self, batches: Iterator) -> Iterator:
        """The batches of the next pass; not for callers."""
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            return waiting
        return self._seeded(batches)

    def _begin_pass(self, number: int, reshuffles: bool) -> None:
        self.passes = number
        if reshuffles and hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(number)

    def _seeded(self, batches: Iterator) -> Iterator:
        number = self.passes
        for position, batch in enumerate(batches):
            key = (self.seed, number, self.rank, position)
            if isinstance(batch, list | tuple):
                yield [_with_key(index, (*key, place)) for place, index in enumerate(batch)]
            else:
                yield _with_key(batch, (*key, 0))
        self.passes = number + 1


@contextmanager
def seeded_by(index: Any) -> Iterator[None]:
    """Seed Python's, NumPy's and PyTorch's random numbers by an index.

    In the training process they go on afterwards as before.

    Args:
        index (SeededIndex): Any other index changes nothing.
    """
    if not isinstance(index, SeededIndex):
        yield
        return
    kept = None
    if get_worker_info() is None:
        kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    words = np.random.SeedSequence(index.key).generate_state(4)
    random.seed(int(words[0]))
    np.random.seed(words[1:3])
    torch.default_generator.manual_seed(int(words[3]))  # torch.manual_seed would seed the GPU, too
    try:
        yield
    finally:
        if kept is not None:
            random.setstate(kept[0])
            np.random.set_state(kept[1])
            torch.set_rng_state(kept[2])


def _ordered(cls: Any) -> dict[str, Any]:
    """The methods that are added to the class of a batch sampler."""

    def __iter__(self: Any) -> Iterator:
        return self._resist_mm_order.indices(cls.__iter__(self))

    return dict(__iter__=__iter__)


def _seeded_samples(cls: Any) -> dict[str, Any]:
    """The methods that are added to the class of a data set."""

    def __getitem__(self: Any, index: Any) -> Any:
        with seeded_by(index):
            return cls.__getitem__(self, index)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        # a class made at run time has no name to be pickled by
        changed, self.__class__ = type(self), cls
        try:
            make, args, *state = self.__reduce_ex__(protocol)
        finally:
            self.__class__ = changed
        return _make_seeded, (make, args), *state

    return dict(__getitem__=__getitem__, __reduce_ex__=__reduce_ex__)


def _seeded_batches(cls: Any) -> dict[str, Any]:
    """The same of one that hands out whole batches."""

    def __getitems__(self: Any, indices: Sequence[Any]) -> Any:
        with seeded_by(indices[0]):
            if hasattr(cls, '__getitems__'):
                return cls.__getitems__(self, indices)
            return self.__getattr__('__getitems__')(indices)  # looked up in what it wraps

    return dict(_seeded_samples(cls), __getitems__=__getitems__)


def _change_class(instance: Any, methods: Callable[[type], dict[str, Any]]) -> None:
    cls = type(instance)
    if not hasattr(cls, '_resist_mm_changed'):
        names = {'__module__': cls.__module__, '__qualname__': cls.__qualname__, '__doc__': cls.__doc__}
        # of two bases, layouts would differ
        instance.__class__ = type(cls.__name__, (cls,), {**names, **methods(cls), '_resist_mm_changed': True})


def _seed_data_set(dataset: Any) -> None:
    _change_class(dataset, _seeded_batches if hasattr(dataset, '__getitems__') else _seeded_samples)


def _make_seeded(make: Any, args: tuple) -> Any:
    instance = make(*args)
    _seed_data_set(instance)
    return instance


def _with_key(index: Any, key: tuple[int, ...]) -> Any:
    if not isinstance(index, int):  # a frame of a video is a pair
        return index
    seeded = SeededIndex(index)
    seeded.key = key
    return seeded
