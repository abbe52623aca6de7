"""Image classification."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModel
from torch import Tensor, nn

from resist_mm.registry import MODELS

__all__ = ['ImageClassifier', 'predictions']


@MODELS.register_module()
class ImageClassifier(BaseModel):
    """A backbone, global average pooling, a linear layer, cross entropy (Sec. 5).

    Works with any backbone that returns a tuple of feature maps; the last one is used.

    Args:
        backbone (dict): Config of the backbone.
        num_classes (int): Number of classes.
        in_channels (int, optional): Channels of the backbone's last output.
            Defaults to None: the backbone's ``feat_dim``.
        channels_last (bool): Whether weights and activations use the channels-last
            memory format, which is faster on GPUs with mixed precision. Defaults to
            False.
        data_preprocessor (dict, optional): Config of the data preprocessor, such as
            ``resist_mm.BatchPreprocessor``. Defaults to None: batches are only moved
            to the device.
        init_cfg (dict or list[dict], optional): Initialisation beyond that of the
            backbone. Defaults to None: PyTorch's own for the linear layer.

    Raises:
        ValueError: If ``in_channels`` is not given and the backbone has no ``feat_dim``.

    Example:
        >>> model = dict(
        ...     type='resist_mm.ImageClassifier',
        ...     backbone=dict(type='resist_mm.PreActResNet', depth=101, block='basic', stem='cifar'),
        ...     num_classes=100,
        ... )
    """

    def __init__(
        self,
        backbone: dict,
        num_classes: int,
        in_channels: int | None = None,
        channels_last: bool = False,
        data_preprocessor: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if data_preprocessor is not None:
            data_preprocessor = MODELS.build(data_preprocessor)
        super().__init__(data_preprocessor=data_preprocessor, init_cfg=init_cfg)
        self.backbone = MODELS.build(backbone)
        if in_channels is None:
            in_channels = getattr(self.backbone, 'feat_dim', None)
            if in_channels is None:
                raise ValueError(
                    f'ImageClassifier.in_channels is needed: {type(self.backbone).__name__} has no feat_dim that '
                    'says how many channels its last output has'
                )
        self.head = nn.Linear(in_channels, num_classes)
        self.channels_last = channels_last
        if channels_last:
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Any:
        """Classify a batch.

        Args:
            inputs (Tensor): Images, floating point, of shape (N, C, H, W).
            labels (Tensor, optional): Classes, of shape (N,).
            mode (str): 'tensor', 'loss' or 'predict'.

        Returns:
            Tensor, dict or list[dict]: The logits of shape (N, num_classes);
            ``dict(loss=...)``; or the :func:`predictions` for every image.

        Raises:
            ValueError: If ``mode`` is something else, labels are missing, or the images
                are not floating point.
        """
        if mode not in ('tensor', 'loss', 'predict'):
            raise ValueError(f"mode must be 'tensor', 'loss' or 'predict', got {mode!r}")
        if not inputs.is_floating_point():
            raise ValueError(
                f'ImageClassifier got {inputs.dtype} images: give the data set a pipeline with '
                "dict(type='ToDtype', dtype='float32', scale=True), or, with in_memory=True, "
                "model.data_preprocessor=dict(type='resist_mm.BatchPreprocessor', ...)"
            )
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        inputs = inputs.contiguous(memory_format=layout)
        logits = self.head(self.backbone(inputs)[-1].mean((2, 3)))
        if mode == 'tensor':
            return logits
        if mode == 'predict':
            return predictions(logits, labels)
        if labels is None:
            raise ValueError("mode='loss' needs labels, but the data set gave none")
        return dict(loss=F.cross_entropy(logits.float(), labels))


def predictions(logits: Tensor, labels: Tensor | None) -> list[dict[str, Any]]:
    """What the metrics need of every image, on the CPU.

    Args:
        logits (Tensor): Of shape (N, num_classes).
        labels (Tensor, optional): Of shape (N,).

    Returns:
        list[dict]: ``logits``, of shape (num_classes,); with labels also ``label``
        (int) and ``loss`` (float).
    """
    logits = logits.float()
    on_cpu = logits.cpu()
    if labels is None:
        return [dict(logits=row) for row in on_cpu]
    losses = F.cross_entropy(logits, labels, reduction='none').tolist()
    return [
        dict(logits=row, label=label, loss=loss)
        for row, label, loss in zip(on_cpu, labels.tolist(), losses, strict=True)
    ]
