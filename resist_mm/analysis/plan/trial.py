"""Times what a prediction rests on: iterations of a config's model, codecs, links."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

from ...builders import build_codec
from ...convert import read_config
from ...convert.build import build_to_look_at
from ...exchange import Transport, all_reduce_bytes
from ...models import partitioned_stages
from .link import LinkSpeed
from .seconds import Work

__all__ = ['Trial', 'block_sec', 'measure_link', 'measure_plain', 'measure_work', 'timed']

NUMBERS = 2**18  # to time codecs with
REPEATS = 5
LINK_SECONDS = 5.0
VOTES = 20
FEWEST_ITERS, MOST_SEC = 2, 60.0  # that are timed; for how long, if that is more than the fewest


class Trial:
    """A config's model, a batch of its training data, and its optimizer; nothing is loaded and nothing saved.

    Args:
        path (str): The config, or ``PACKAGE::FILE``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the model cannot be built, or the training data are not there.
    """

    def __init__(self, path: str) -> None:
        cfg = read_config(path)
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        self.cfg, self.device = cfg, torch.device(get_device())
        self.batch = _first_batch(cfg, path)
        self.model: Any
        self.optim_wrapper: Any
        self.reset()

    def reset(self) -> None:
        """Build the model and its optimizer anew."""
        self.model = build_to_look_at(self.cfg, 'cpu').to(self.device)
        self.optim_wrapper = build_optim_wrapper(self.model, copy.deepcopy(self.cfg.optim_wrapper))

    def iterate(self) -> None:
        """One iteration. The batch is always the same; some models change theirs."""
        self.model.train_step(copy.deepcopy(self.batch), self.optim_wrapper)

    def hold(self, num_blocks: int) -> None:
        """Drop all partitioned blocks but some, for good."""
        left = num_blocks
        for stage in partitioned_stages(self.model).values():
            kept = min(left, stage.num_partitioned)
            stage.hold(range(kept))
            left -= kept

    def iteration_sec(self, number: int) -> float:
        """Seconds of an iteration, a mean, after one that does not count; all workers train at the same time.

        Args:
            number (int): Over how many iterations; fewer, but not below two, if they would take over a minute.
        """
        first = timed(self.iterate, 1, self.device)
        if dist.is_initialized():  # all workers the same number: an iteration may have collectives, as with SyncBN
            first = _agreed(first)
        return timed(self.iterate, min(number, max(FEWEST_ITERS, int(MOST_SEC / first))), self.device)


def timed(action: Callable[[], Any], number: int, device: torch.device) -> float:
    """Seconds of an action, the mean over some without a pause, as in a run."""
    _synchronize(device)
    began = time.perf_counter()
    for _ in range(number):
        action()
    _synchronize(device)
    return (time.perf_counter() - began) / number


def measure_plain(device: torch.device) -> float:
    """Seconds for each number of an exchange in fp32: a copy into new memory, a sum, a look at the result."""
    numbers = torch.randn(NUMBERS, device=device)

    def stage() -> None:
        room = torch.empty_like(numbers)
        torch.mul(numbers, 0.25, out=room)
        room.add_(numbers)
        bool(torch.isfinite(room.sum()))

    stage()
    return timed(stage, REPEATS, device) / NUMBERS


def measure_work(codecs: Mapping[str, dict | None], device: torch.device) -> dict[str, Work]:
    """Seconds for each number of every codec."""
    found = {}
    numbers, reference = torch.randn(2, NUMBERS, device=device)
    for name, cfg in codecs.items():
        codec = build_codec(cfg)
        if codec is None:
            continue
        old = reference if codec.uses_reference else None
        message, out = codec.encode(numbers, old), torch.empty_like(numbers)
        codec.decode(message, out, old)
        encode = timed(partial(codec.encode, numbers, old), REPEATS, device)
        decode = timed(partial(codec.decode, message, out, old), REPEATS, device)
        found[name] = Work(encode / NUMBERS, decode / NUMBERS)
    return found


def measure_link(num_bytes: int, device: torch.device, seconds: float = LINK_SECONDS) -> LinkSpeed:
    """The link of the slowest worker, from all-reduces and votes; to be called by all workers.

    Args:
        num_bytes (int): Size of an all-reduce.
        device (torch.device): Of the process group's backend.
        seconds (float): How long to go on. Defaults to 5.
    """
    transport, message = Transport(device), torch.zeros(max(1, num_bytes // 4), device=device)
    num_workers = transport.num_workers

    def average() -> None:
        dist.all_reduce(message)

    average()
    transport.vote(0)
    latency = median(timed(lambda: transport.vote(0), 1, device) for _ in range(VOTES))
    once = _agreed(timed(average, 1, device))
    number = max(1, min(100, int(seconds / once)))
    steps = 2 * (num_workers - 1) * latency
    of_bytes = max(once / 100, _agreed(timed(average, number, device)) - steps)
    return LinkSpeed(all_reduce_bytes(message.nbytes, num_workers).sent / of_bytes, _agreed(latency))


def _agreed(seconds: float) -> float:
    """The most of all workers."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, seconds)
    return max(found)


def _synchronize(device: torch.device) -> None:
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def _first_batch(cfg: Config, path: str) -> Any:
    loader = copy.deepcopy(cfg.get('train_dataloader'))
    if loader is None:
        raise ValueError(f'{path} has no train_dataloader, so its iterations cannot be timed: give --iter-sec')
    loader.update(num_workers=0, persistent_workers=False)
    loader.pop('prefetch_factor', None)
    try:
        return next(iter(Runner.build_dataloader(loader, seed=0)))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f'the training data of {path} cannot be loaded, so its iterations cannot be timed: give --iter-sec '
            f'({type(error).__name__}: {error})'
        ) from None


def block_sec(whole: float, sub: float, num_blocks: int, held: int) -> float:
    """What a partitioned block adds to an iteration."""
    return max(0.0, (whole - sub) / (num_blocks - held)) if num_blocks > held else 0.0
