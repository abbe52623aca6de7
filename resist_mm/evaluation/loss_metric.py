"""The loss over a whole test set as a metric."""

import math
from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric

from resist_mm.registry import METRICS


@METRICS.register_module()
class LossMetric(BaseMetric):
    """Mean loss per image over the whole data set, the figure of Table 6 of the `ResIST
    paper <https://arxiv.org/abs/2107.00961>`_.

    mmengine's own validation loss is the mean over the images of one worker; this one is collected over all
    workers, like any metric. The model attaches the loss of every image to its data sample as a float named
    ``loss``: :class:`ImageClassifier` does so if there is a label, :class:`YOLOV2` if
    ``model.test_cfg.with_loss=True`` is set.

    The metric's key is ``test/loss``, so ``CheckpointHook(save_best='test/loss')`` keeps the checkpoint with the
    lowest test loss. It has a prefix because mmengine's log averages ``loss`` over past validations.

    Args:
        collect_device (str): Where results of several workers are collected, ``'cpu'`` or ``'gpu'``.
            Defaults to ``'cpu'``.
        prefix (str, optional): Prefix of the key: ``'voc'`` gives ``voc/loss``. Defaults to None: ``'test'``.
        collect_dir (str, optional): Directory shared by all workers for collecting on the CPU. Defaults to
            None.

    Raises:
        ValueError: By :meth:`process` when a data sample has no loss, by :meth:`compute_metrics` when there
            is no sample at all.
    """

    default_prefix = 'test'

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Collect the losses of one batch.

        Args:
            data_batch (Any): The batch of the data loader. Not used.
            data_samples (Sequence[dict]): The model's outputs as dicts.
        """
        for sample in data_samples:
            if 'loss' not in sample:
                raise ValueError(
                    f'LossMetric found a data sample without a `loss`, which has {sorted(sample)}. '
                    'resist_mm.YOLOV2 gives one with `model.test_cfg.with_loss=True` and `LoadAnnotations` in the '
                    'test pipeline; resist_mm.ImageClassifier if the data set gives `labels`'
                )
            self.results.append(float(sample['loss']))

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Average over the data set.

        Args:
            results (list[float]): The losses of all images, of all workers.

        Returns:
            dict[str, float]: ``{'loss': mean}``.
        """
        if not results:
            raise ValueError('LossMetric has no losses to average: the evaluated data set is empty.')
        return {'loss': math.fsum(results) / len(results)}
