"""What the communication of a config's run depends on: its model, its data, its lengths."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch import nn

from resist_mm.exchange.cost import NetworkSize
from resist_mm.models import PartitionedStage, partitioned_stages

__all__ = ['ConfigRun', 'read_config']


@dataclass(frozen=True)
class ConfigRun:
    """A config's network and lengths; None: the config does not say.

    Attributes:
        network: The sizes of the network.
        batch_size: Batch of one worker.
        length: Number of training images.
        epochs: Passes over the data.
        iters: Iterations of the run, where the config counts those.
        local_iters: Iterations of a round, from a hook.
        min_blocks: Least number of partitioned blocks, from a hook.
    """

    network: NetworkSize
    batch_size: int | None
    length: int | None
    epochs: int | None
    iters: int | None
    local_iters: int | None
    min_blocks: int | None


def read_config(path: str, image_size: tuple[int, int] | None = None) -> ConfigRun:
    """Build a config's model, without storage where it lets one, and look up the rest.

    Args:
        path (str): The config file.
        image_size (tuple[int, int], optional): Height and width of the images, for the
            activations. Defaults to None: what the training pipeline resizes to.
    """
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        with torch.device('meta'):
            model = MODELS.build(cfg.model)
    except (NotImplementedError, RuntimeError):  # some modules compute with values when they are built
        model = MODELS.build(cfg.model)
    loader = cfg.get('train_dataloader') or {}
    train_cfg = cfg.get('train_cfg') or {}
    hook: dict[str, Any] = next((hook for hook in cfg.get('custom_hooks', []) if 'local_iters' in hook), {})
    return ConfigRun(
        network=network_size(model, image_size or _image_size(loader)),
        batch_size=loader.get('batch_size'),
        length=_length(loader),
        epochs=train_cfg.get('max_epochs'),
        iters=train_cfg.get('max_iters'),
        local_iters=hook.get('local_iters'),
        min_blocks=hook.get('min_blocks'),
    )


def network_size(model: nn.Module, image_size: tuple[int, int] | None = None) -> NetworkSize:
    """Count the trainable parameters of a model, and the activations of its backbone's blocks."""
    blocks = tuple(
        sum(p.numel() for p in stage.block_parameters(number))
        for stage in partitioned_stages(model).values()
        for number in range(stage.num_partitioned)
    )
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    activations = () if image_size is None else _activations(getattr(model, 'backbone', model), image_size)
    return NetworkSize(trainable - sum(blocks), blocks, activations)


def _activations(backbone: nn.Module, image_size: tuple[int, int]) -> tuple[int, ...]:
    """Number of activations behind every residual block; none if the backbone has no stages of blocks."""
    stages = [getattr(backbone, name) for name in getattr(backbone, 'res_layers', [])]
    numels: list[int] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        numels.append(output.numel())

    handles = [
        block.register_forward_hook(note)
        for stage in stages
        for block in (stage if isinstance(stage, nn.Sequential | PartitionedStage) else [])
    ]
    if not handles:
        return ()
    device = next(backbone.parameters()).device
    backbone.eval()
    try:
        with torch.no_grad():
            backbone(torch.empty(1, 3, *image_size, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return tuple(numels)


def _image_size(loader: ConfigDict) -> tuple[int, int] | None:
    """The size that the training pipeline makes images of, taken as height and width."""
    size = None
    for transform in _transforms(loader.get('dataset') or {}):
        scale = next((transform[key] for key in ('crop_size', 'scale', 'size') if key in transform), None)
        if isinstance(scale, int):
            size = (scale, scale)
        elif isinstance(scale, list | tuple) and len(scale) == 2 and all(isinstance(n, int) for n in scale):
            size = (scale[1], scale[0])  # mmcv writes (width, height)
    return size


def _transforms(dataset: Any) -> Iterator[Any]:
    """All transforms of a data set's config, those of data sets inside it too."""
    if not isinstance(dataset, dict):
        return
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or [])]:
        yield from _transforms(inner)
    yield from (t for t in dataset.get('pipeline') or [] if isinstance(t, dict))


def _length(loader: ConfigDict) -> int | None:
    """The number of training images, if the data set is there."""
    try:
        return len(DATASETS.build(loader['dataset']))
    except Exception:  # whatever a data set raises if its files are missing
        return None
