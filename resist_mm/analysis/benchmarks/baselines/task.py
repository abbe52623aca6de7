"""What is trained: a config's network, data, optimizer and schedule, in a plain loop."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import PARAM_SCHEDULERS, init_default_scope
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ....convert.build import build_to_look_at
from ....registry import DATASETS
from .costs import Pace
from .methods import METHODS
from .running import Running, Setup

__all__ = ['Task']

INIT = 'torch'  # PyTorch's initial weights, as for the other small runs of docs/benchmarks.md
TEST_BATCH = 500


class Task:
    """A config of an image classifier, on this worker.

    Args:
        path (str): The config: a network with a partitioned stage, and a protocol that sets ``local_iters``.
        iters (int, optional): Iterations of a run; the schedule is stretched. Defaults to None: the config's.
    """

    def __init__(self, path: str, iters: int | None = None) -> None:
        cfg = Config.fromfile(path)
        init_default_scope('mmengine')
        if 'init' in cfg.model.backbone:
            cfg.model.backbone.init = INIT
        self.cfg = cfg
        self.iters: int = iters or cfg.train_cfg.max_iters
        # the learning rate rises in the warm-up
        self.pace = Pace(cfg.custom_hooks[0].local_iters, self._stretched(cfg.param_scheduler[0].end))
        self.batch_size: int = cfg.train_dataloader.batch_size
        self._sets: dict[str, Any] = {}

    def start(self, name: str, seed: int, pace: Pace | None = None) -> Running:
        """Set a method up on a new model, the same on all workers; other random numbers differ between them."""
        method, cfg = METHODS[name], copy.deepcopy(self.cfg)
        torch.manual_seed(seed)
        model: nn.Module = build_to_look_at(cfg, 'cpu')
        model.train()
        cfg.optim_wrapper.optimizer.lr *= method.lr_factor
        optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
        torch.manual_seed(1000 * (seed + 1) + dist.get_rank())
        return method.build(Setup(model, optimizer, pace or self.pace))

    def schedulers(self, optimizer: torch.optim.Optimizer) -> list[Any]:
        """The config's schedulers of the learning rate; each steps after every iteration."""
        made = []
        for scheduler in self.cfg.param_scheduler:
            given = dict(scheduler, optimizer=optimizer)
            given.update({key: self._stretched(given[key]) for key in ('begin', 'end', 'T_max') if key in given})
            made.append(PARAM_SCHEDULERS.build(given))
        return made

    def train_loader(self, seed: int) -> DataLoader:
        """Batches of this worker, in an order that depends on the seed alone."""
        loader = copy.deepcopy(self.cfg.train_dataloader)
        loader.dataset = self._set('train_dataloader')
        return Runner.build_dataloader(loader, seed=seed)

    def test_batches(self) -> list[Any]:
        """The test images that this worker looks at: those of all workers are all of them."""
        images: Any = self._set('test_dataloader')
        places = list(range(dist.get_rank(), len(images), dist.get_world_size()))
        return [
            dict(images.__getitems__(places[at : at + TEST_BATCH])) for at in range(0, len(places), TEST_BATCH)
        ]

    def random_batch(self) -> dict[str, Any]:
        """A batch of noise, as large as one of training."""
        size = DATASETS.get(self.cfg.train_dataloader.dataset.type).image_size  # type: ignore[union-attr]
        images = torch.randint(256, (self.batch_size, 3, *size), dtype=torch.uint8)
        return dict(inputs=images, labels=torch.randint(self.cfg.model.num_classes, (self.batch_size,)))

    def _set(self, loader: str) -> Dataset:
        if loader not in self._sets:
            self._sets[loader] = DATASETS.build(copy.deepcopy(self.cfg[loader].dataset))
        return self._sets[loader]

    def _stretched(self, iterations: int) -> int:
        return round(iterations * self.iters / self.cfg.train_cfg.max_iters)
