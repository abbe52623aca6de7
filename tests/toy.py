"""A tiny network and data set for tests, and a Runner around them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.data import Dataset

from resist_mm.models.backbones import PreActResNet
from resist_mm.models.wrappers import LocalModel


class ToyData(Dataset):
    """Images of noise in two classes, from a fixed seed."""

    def __init__(self, length: int = 32) -> None:
        generator = torch.Generator().manual_seed(5)
        self.images = torch.randn(length, 3, 8, 8, generator=generator)
        self.labels = torch.randint(2, (length,), generator=generator)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.images[index], self.labels[index]


class ToyModel(BaseModel):
    """A classifier with a pre-activation ResNet of 6 partitioned blocks."""

    def __init__(self, norm_cfg: dict | None = None, **backbone: Any) -> None:
        super().__init__()
        self.backbone = PreActResNet(
            **{
                **dict(
                    block='basic',
                    stage_blocks=(1, 1, 7),
                    num_stages=3,
                    strides=(1, 2, 2),
                    dilations=(1, 1, 1),
                    out_indices=(2,),
                    stem='cifar',
                    base_channels=4,
                    norm_cfg=norm_cfg,
                ),
                **backbone,
            }
        )
        self.head = nn.Linear(self.backbone.feat_dim, 2)

    def init_weights(self) -> None:
        torch.manual_seed(0)
        for p in self.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.2)
        nn.init.zeros_(self.head.bias)

    def forward(self, inputs: Tensor, labels: Tensor, mode: str = 'tensor') -> Any:
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == 'loss':
            return dict(loss=F.cross_entropy(logits, labels))
        return logits


class ToyRunner(Runner):
    """Does not spend seconds on collecting the environment's versions."""

    def _log_env(self, env_cfg: dict) -> None:
        pass


def toy_runner(work_dir: Path | str, hooks: list, model: nn.Module | None = None, **overrides: Any) -> Runner:
    """A Runner for the toy model; distributed if the process is."""
    distributed = torch.distributed.is_initialized()
    config: dict[str, Any] = dict(
        model=model or ToyModel(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=4,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=ToyData(),
            collate_fn=dict(type='default_collate'),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1), checkpoint=None),
        custom_hooks=hooks,
        randomness=dict(seed=7),
        experiment_name=f'toy{len(list(Path(work_dir).iterdir()))}_{id(hooks)}',
        default_scope='mmengine',
        log_level='WARNING',
    )
    config.update(overrides)
    config['model'] = (
        LocalModel(config['model']) if distributed and not _is_wrapped(config['model']) else config['model']
    )
    runner = ToyRunner(**config, launcher='none')
    # test processes are started without mmengine's launcher
    runner._distributed = distributed
    return runner


def _is_wrapped(model: nn.Module) -> bool:
    from mmengine.model import is_model_wrapper

    return is_model_wrapper(model)
