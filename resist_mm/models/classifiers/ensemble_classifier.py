"""An ensemble of independently trained classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModel
from mmengine.runner.checkpoint import load_checkpoint
from torch import Tensor, nn

from resist_mm.registry import MODELS

from .image_classifier import predictions

__all__ = ['EnsembleClassifier']


@MODELS.register_module()
class EnsembleClassifier(BaseModel):
    """Averages the logits of independently trained classifiers (Sec. A.2, Table 7).

    For testing only: it cannot be trained. It costs as much as all members together.

    Args:
        member (dict): Config of one member, a ``resist_mm.ImageClassifier``.
        checkpoints (Sequence[str]): The checkpoints, one for each member.
        data_preprocessor (dict, optional): Defaults to None: that of the member.

    Raises:
        ValueError: If there is no checkpoint.
    """

    def __init__(self, member: dict, checkpoints: Sequence[str], data_preprocessor: dict | None = None) -> None:
        if not checkpoints:
            raise ValueError('EnsembleClassifier.checkpoints must name a checkpoint for every member, got none')
        preprocessor = data_preprocessor or member.get('data_preprocessor')
        super().__init__(data_preprocessor=None if preprocessor is None else MODELS.build(preprocessor))
        self.members = nn.ModuleList(MODELS.build(member) for _ in checkpoints)
        for model, checkpoint in zip(self.members, checkpoints, strict=True):
            load_checkpoint(model, checkpoint, map_location='cpu', strict=True, logger='current')

    def init_weights(self) -> None:
        """Do nothing: the members already have their weights."""

    def forward(self, inputs: Tensor, labels: Tensor | None = None, mode: str = 'tensor') -> Any:
        """Classify a batch, as ``ImageClassifier`` does, with the mean of the members' logits.

        Raises:
            ValueError: If ``mode`` is 'loss': members are trained separately.
        """
        if mode not in ('tensor', 'predict'):
            raise ValueError(
                f"EnsembleClassifier has mode 'tensor' and 'predict', got {mode!r}: train the members separately"
            )
        logits = torch.stack([model(inputs, mode='tensor').float() for model in self.members]).mean(0)
        return logits if mode == 'tensor' else predictions(logits, labels)
