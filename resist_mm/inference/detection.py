"""Inference with detectors."""

from __future__ import annotations

import os.path as osp
from collections.abc import Callable
from typing import Any

import cv2
from mmdet.apis import DetInferencer as MMDetInferencer
from mmdet.datasets.transforms import InferencerLoader
from mmdet.structures import DetDataSample
from mmengine.dataset import Compose
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

    def __call__(self, inputs: Any, batch_size: int = 1, *args: Any, **kwargs: Any) -> dict:
        """Detect objects; the arguments are those of mmdet's.

        Raises:
            FileNotFoundError: If there is no such image.
            ValueError: If a file is no image, or the batch size is below 1.
        """
        if batch_size < 1:
            raise ValueError(f'batch_size must be at least 1, got {batch_size}')
        return super().__call__(inputs, batch_size, *args, **kwargs)

    def _init_pipeline(self, cfg: Any) -> Compose:
        pipeline = super()._init_pipeline(cfg)
        pipeline.transforms = [
            _naming_the_file(step) if isinstance(step, InferencerLoader) else step for step in pipeline.transforms
        ]
        return pipeline

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


def _naming_the_file(load: InferencerLoader) -> Callable[[Any], Any]:
    """Loads an image; errors of decoders, which mmcv and OpenCV let through, say which file it was."""

    def load_image(image: Any) -> Any:
        try:
            return load(image)
        except (AssertionError, cv2.error) as error:
            if not isinstance(image, str):
                raise
            raise ValueError(f'{image} cannot be read as an image: {error}') from None

    return load_image
