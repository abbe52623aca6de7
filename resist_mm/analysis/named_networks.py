"""The networks that the commands know by name: their sizes, and the real modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .cost import NetworkSize, PartSize

__all__ = ['ARCHITECTURES', 'CODECS', 'DATASETS', 'Architecture', 'DataSet', 'build_classifier']


@dataclass(frozen=True)
class DataSet:
    """A data set and the paper's way of training on it (Sec. 5).

    Attributes:
        classes: Number of classes.
        length: Number of training images.
        image_size: Height and width.
        batch_size: Batch of one worker.
        local_iters: Iterations of a round.
        min_blocks: Minimum number of partitioned blocks of a worker.
        epochs: Passes over the data with two workers, and with more.
        warmup_rounds: Rounds of local SGD before ResIST begins.
    """

    classes: int
    length: int
    image_size: int
    batch_size: int
    local_iters: int
    min_blocks: int
    epochs: tuple[int, int]
    warmup_rounds: int = 0


DATASETS = dict(
    cifar10=DataSet(10, 50_000, 32, 128, 50, 5, (80, 160)),
    cifar100=DataSet(100, 50_000, 32, 128, 50, 5, (80, 160)),
    imagenet=DataSet(1000, 1_281_167, 224, 256, 20, 10, (90, 90), 3150),
)


@dataclass(frozen=True)
class Architecture:
    """A residual network whose third stage is partitioned, except for its first block.

    Attributes:
        stage_blocks: Number of blocks of every stage.
        preact: Whether it is a ``PreActResNet`` of basic blocks with the 3x3 stem, like
            the paper's CIFAR networks; otherwise a ``PartitionableResNet`` of bottlenecks.
        base_channels: Width of the first stage.
        dataset: The data set that it is used on by default.
    """

    stage_blocks: tuple[int, ...]
    preact: bool = True
    base_channels: int = 64
    dataset: str = 'cifar100'

    def size(self, classes: int, image_size: tuple[int, int]) -> NetworkSize:
        """Numbers of parameters and activations, computed without building the network.

        Args:
            classes (int): Number of classes.
            image_size (tuple[int, int]): Height and width.
        """
        channels, (height, width) = self.base_channels, image_size
        shared = PartSize((9 if self.preact else 49) * 3 * channels)
        if not self.preact:
            shared += PartSize(0, 2 * channels)
            height, width = (_halved(_halved(length)) for length in image_size)
        blocks, activations = [], []
        for stage, number, planes, stride in self._blocks():
            params, out = self._block_params(channels, planes, stride)
            if stage == 2 and number > 0:
                blocks.append(params)
            else:
                shared += params
            channels = out
            if stride == 2:
                height, width = _halved(height), _halved(width)
            activations.append(channels * height * width)
        return NetworkSize(shared + PartSize(channels * classes, classes), tuple(blocks), tuple(activations))

    def _blocks(self) -> Iterator[tuple[int, int, int, int]]:
        for stage, num_blocks in enumerate(self.stage_blocks):
            for number in range(num_blocks):
                stride = 2 if stage > 0 and number == 0 else 1
                yield stage, number, self.base_channels * 2**stage, stride

    def _block_params(self, channels: int, planes: int, stride: int) -> tuple[PartSize, int]:
        """Number of parameters of a block, and number of channels of its output."""
        out = planes if self.preact else 4 * planes
        projected = stride != 1 or channels != out
        if self.preact:  # norm, 3x3, norm, 3x3; the shortcut has no norm
            convs = 9 * channels * planes + 9 * planes**2 + projected * channels * out
            return PartSize(convs, 2 * channels + 2 * planes), out
        convs = channels * planes + 9 * planes**2 + planes * out + projected * channels * out
        return PartSize(convs, 4 * planes + 2 * out + projected * 2 * out), out


def _halved(length: int) -> int:
    """Output length of a padded convolution or pooling of stride 2."""
    return (length + 1) // 2


CODECS: dict[str, dict | None] = dict(
    none=None,
    bf16=dict(type='bf16'),
    **{f'q{bits}': dict(type='quantize', bits=bits) for bits in range(8, 3, -1)},
    topk25=dict(type='topk', share=0.25),
    **{f'c{bits}': dict(type='changes', bits=bits) for bits in (4, 3, 2)},
    c2_topk3=dict(type='changes', bits=2, share=0.03),
)
"""Configs of codecs by short names."""

ARCHITECTURES = dict(
    preact_resnet101=Architecture((3, 4, 23, 3)),
    preact_resnet152=Architecture((3, 4, 36, 3)),
    preact_resnet200=Architecture((3, 4, 50, 3)),
    preact_tiny=Architecture((1, 1, 7, 1), base_channels=4),
    resnet50=Architecture((3, 4, 6, 3), preact=False, dataset='imagenet'),
    resnet101=Architecture((3, 4, 23, 3), preact=False, dataset='imagenet'),
    resnet152=Architecture((3, 8, 36, 3), preact=False, dataset='imagenet'),
)


def build_classifier(name: str, classes: int) -> Any:
    """Build a named network: a backbone and a linear head on its mean over the image.

    Returns:
        nn.Module: ``model(images)`` gives the logits, of shape (N, classes).
    """
    from torch import nn

    from ..models import backbones

    arch = ARCHITECTURES[name]
    if arch.preact:
        backbone = backbones.PreActResNet(
            block='basic',
            stage_blocks=arch.stage_blocks,
            stem='cifar',
            final_norm=False,
            base_channels=arch.base_channels,
            out_indices=(3,),
        )
        features = backbone.feat_dim
    else:
        depth = {23: 101, 36: 152, 6: 50}[arch.stage_blocks[2]]
        backbone = backbones.PartitionableResNet(
            depth, base_channels=arch.base_channels, out_indices=(3,), norm_eval=False
        )
        features = 4 * 8 * arch.base_channels

    class LastStage(nn.Module):
        def forward(self, outs: Any) -> Any:
            return outs[-1].mean((2, 3))

    return nn.Sequential(backbone, LastStage(), nn.Linear(features, classes))
