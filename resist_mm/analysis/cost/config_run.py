"""What a config says about communication: its model, its data, the length of its run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import DATASETS, init_default_scope
from torch import nn

from ...config_hooks import ROUND_HOOKS
from ...convert import read_config as read_whole_config
from ...convert.build import build_to_look_at
from ...models import partitioned_stages
from .network_size import NetworkSize, PartSize

__all__ = ['ConfigRun', 'network_size', 'read_config']


@dataclass(frozen=True)
class ConfigRun:
    """A config's network and lengths; None where the config does not say.

    Attributes:
        network: The sizes of the network.
        batch_size: Batch of one worker.
        length: Number of training images.
        epochs: Passes over the data.
        iters: Iterations of the run, where the config counts those.
        hook: The config of the hook that runs rounds; empty if there is none.
        averages: The configs of the hooks that keep moving averages of the weights.
        whole_every: Intervals of validation and checkpoints, in epochs; in iterations in a run that counts those.
        saved_every: That of checkpoints; empty if there are none.
    """

    network: NetworkSize
    batch_size: int | None
    length: int | None
    epochs: int | None
    iters: int | None
    hook: dict[str, Any]
    averages: tuple[dict[str, Any], ...] = ()
    whole_every: tuple[int, ...] = ()
    saved_every: tuple[int, ...] = ()


def read_config(path: str, image_size: tuple[int, int] | None = None) -> ConfigRun:
    """Build a config's model, without storage if that is possible, and look up the rest.

    Args:
        path (str): The config file, or ``PACKAGE::FILE``.
        image_size (tuple[int, int], optional): Height and width of the images, for the
            activations. Defaults to None: what the training pipeline resizes to.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a config, has no model, or the model cannot be built.
    """
    cfg = read_whole_config(path)
    if 'model' not in cfg:
        raise ValueError(f'{path} has no model whose parameters could be counted')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    loader = cfg.get('train_dataloader') or {}
    train_cfg = cfg.get('train_cfg') or {}
    hooks, averages = (_hooks(cfg, names) for names in (ROUND_HOOKS, ('EMAHook',)))
    preprocessor = cfg.model.get('data_preprocessor') or {}
    pipelines = [*_pipelines(loader.get('dataset')), preprocessor.get('train_pipeline') or []]
    return ConfigRun(
        network=network_size(build_to_look_at(cfg), image_size or _image_size(pipelines)),
        batch_size=loader.get('batch_size'),
        length=_length(loader),
        epochs=train_cfg.get('max_epochs'),
        iters=train_cfg.get('max_iters'),
        hook=hooks[0] if hooks else {},
        averages=tuple(averages),
        whole_every=tuple(sorted({*_validated_every(cfg), *_saved_every(cfg)})),
        saved_every=_saved_every(cfg),
    )


def _hooks(cfg: Config, names: Collection[str]) -> list[dict[str, Any]]:
    return [dict(hook) for hook in cfg.get('custom_hooks') or [] if str(hook.get('type')).split('.')[-1] in names]


def _validated_every(cfg: Config) -> tuple[int, ...]:
    train_cfg = cfg.get('train_cfg') or {}
    interval = train_cfg.get('val_interval', 1000 if 'max_iters' in train_cfg else 1)  # mmengine's defaults
    return (interval,) if cfg.get('val_cfg') is not None and interval > 0 else ()


def _saved_every(cfg: Config) -> tuple[int, ...]:
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    interval = checkpoint.get('interval', -1)
    counts_alike = checkpoint.get('by_epoch', True) != ('max_iters' in (cfg.get('train_cfg') or {}))
    return (interval,) if counts_alike and interval > 0 else ()


def network_size(model: nn.Module, image_size: tuple[int, int] | None = None) -> NetworkSize:
    """Count the trainable parameters of a model, and the activations of its backbone's blocks."""
    blocks = [
        stage.block_parameters(number)
        for stage in partitioned_stages(model).values()
        for number in range(stage.num_partitioned)
    ]
    dealt = {id(p) for block in blocks for p in block}
    shared = [p for p in model.parameters() if id(p) not in dealt]
    activations = () if image_size is None else _activations(getattr(model, 'backbone', model), image_size)
    return NetworkSize(_part_size(shared), tuple(map(_part_size, blocks)), activations)


def _part_size(params: Iterable[nn.Parameter]) -> PartSize:
    """Codecs compress parameters of more than one dimension; frozen parameters are not sent."""
    trainable = [p for p in params if p.requires_grad]
    weights = sum(p.numel() for p in trainable if p.dim() > 1)
    return PartSize(weights, sum(p.numel() for p in trainable) - weights)


def _activations(backbone: nn.Module, image_size: tuple[int, int]) -> tuple[int, ...]:
    """Number of activations behind every residual block; none if the backbone has no stages of blocks."""
    stages = [getattr(backbone, name) for name in getattr(backbone, 'res_layers', [])]
    numels: list[int] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        numels.append(output.numel())

    handles = [
        block.register_forward_hook(note)
        for stage in stages
        for block in (stage if isinstance(stage, nn.Sequential) else [])
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


def _image_size(pipelines: Iterable[Any]) -> tuple[int, int] | None:
    """Height and width of the images that the training pipeline yields."""
    size = None
    for transform in (t for pipeline in pipelines for t in pipeline if isinstance(t, dict)):
        for key in ('crop_size', 'size', 'scale'):
            found = transform.get(key)
            if isinstance(found, int) and not isinstance(found, bool):
                size = (found, found)
                break
            if isinstance(found, list | tuple) and len(found) == 2 and all(isinstance(n, int) for n in found):
                # mmcv writes (width, height), torchvision's "size" is (height, width)
                size = (found[0], found[1]) if key == 'size' else (found[1], found[0])
                break
    return size


def _pipelines(dataset: Any) -> Iterator[Any]:
    """The pipelines of a data set's config, including those of nested data sets."""
    if not isinstance(dataset, dict):
        return
    for inner in [dataset.get('dataset'), *(dataset.get('datasets') or [])]:
        yield from _pipelines(inner)
    yield dataset.get('pipeline') or []


def _length(loader: ConfigDict) -> int | None:
    """The number of training images, if the data set is there."""
    try:
        return len(DATASETS.build(loader['dataset']))
    except Exception:  # whatever a data set raises if its files are missing
        return None
