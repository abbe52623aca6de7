"""Inference with detectors."""

from __future__ import annotations

import os.path as osp
from typing import Any

from mmdet.apis import DetInferencer as MMDetInferencer
from mmdet.structures import DetDataSample
from mmengine.fileio import dump

from .safe import SafeInferencer, images_of

__all__ = ['DetInferencer']


class DetInferencer(SafeInferencer, MMDetInferencer):
    """mmdet's ``DetInferencer`` that runs no code from checkpoints and adds the names of classes to predictions.

    Args:
        model: See :class:`.SafeInferencer`, as for the next three.
        weights: The checkpoint.
        device: Where to run.
        trust_checkpoint: Whether the checkpoint may run code.
        **kwargs: ``palette`` and ``show_progress`` of mmdet's.

    It is called with a file, a folder, an array or a list of them, and returns a dict of ``predictions`` and
    ``visualization``; docs/inference.md has an example in three lines.
    """

    def _inputs_to_list(self, inputs: Any) -> list:
        return images_of(inputs)

    def pred2dict(self, data_sample: DetDataSample, pred_out_dir: str = '') -> dict[str, Any]:
        """A prediction as plain values, with the names of classes; written to ``preds/IMAGE.json`` if asked."""
        number = self.num_predicted_imgs
        result = super().pred2dict(data_sample, pred_out_dir)
        names = self.model.dataset_meta.get('classes') or ()
        if 'labels' in result:
            result['classes'] = [names[label] for label in result['labels']] if names else []
            if pred_out_dir:
                stem = osp.splitext(osp.basename(data_sample.get('img_path') or f'{number}.jpg'))[0]
                dump(result, osp.join(pred_out_dir, 'preds', f'{stem}.json'))
        return result
