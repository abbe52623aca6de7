"""Top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import BaseMetric

from resist_mm.registry import METRICS

__all__ = ['Accuracy']


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Share of images, in percent, whose class is among the k with the highest logits.

    It is computed over the test sets of all workers. Its keys are ``accuracy/top1`` and
    so on, so ``CheckpointHook(save_best='accuracy/top1', rule='greater')`` keeps the best
    checkpoint. Ties count as wrong, so that a network with constant logits scores zero.

    Args:
        topk (Sequence[int]): The k's. Defaults to (1, 5).
        **kwargs: ``collect_device``, ``prefix`` and ``collect_dir`` of mmengine's
            ``BaseMetric``.

    Raises:
        ValueError: If a k is not positive; by :meth:`process` if a sample has no
            label; by :meth:`compute_metrics` if there is no sample.
    """

    default_prefix = 'accuracy'

    def __init__(self, topk: Sequence[int] = (1, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.topk = tuple(topk)
        if not self.topk or min(self.topk) < 1:
            raise ValueError(f'Accuracy.topk must name positive numbers, got {topk!r}')

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect the rank of every image's class: 0 if it has the highest logit.

        Args:
            data_batch (Any): Not used.
            data_samples (Sequence[dict]): With ``logits`` and ``label``.
        """
        for sample in data_samples:
            if 'label' not in sample or 'logits' not in sample:
                raise ValueError(
                    'Accuracy needs `logits` and `label` of every image, as resist_mm.ImageClassifier gives them '
                    f'for a data set with labels. Keys of the sample: {sorted(sample)}'
                )
        logits = torch.stack([sample['logits'] for sample in data_samples])
        own = logits.gather(1, torch.tensor([[sample['label']] for sample in data_samples]))
        # not (smaller): logits that are equal, or not a number, rank before the class itself
        self.results += ((~(logits < own)).sum(1) - 1).tolist()

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """Average over the data set.

        Args:
            results (list[int]): The ranks of all images of all workers.

        Returns:
            dict[str, float]: In percent, by ``top1`` and so on.
        """
        if not results:
            raise ValueError('Accuracy has no images to evaluate: the evaluated data set is empty')
        return {f'top{k}': 100 * sum(rank < k for rank in results) / len(results) for k in self.topk}
