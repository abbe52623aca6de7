"""Inference with classifiers."""

from __future__ import annotations

import os.path as osp
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config, ConfigDict
from mmengine.fileio import dump
from mmengine.infer.infer import BaseInferencer
from mmengine.registry import init_default_scope
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2.functional import pil_to_tensor

from resist_mm.datasets import ImageSet, build_pipeline
from resist_mm.registry import DATASETS

from .drawing import draw_classes
from .safe import SafeInferencer, images_of

__all__ = ['ImageClassificationInferencer']


class ImageClassificationInferencer(SafeInferencer, BaseInferencer):
    """Classifies images with a ``resist_mm.ImageClassifier``.

    Images pass through the test pipeline of the config, and those for CIFAR's networks are first resized to 32x32.

    Args:
        model: See :class:`.SafeInferencer`, as for the next three.
        weights: The checkpoint, which also has the names of the classes.
        device: Where to run.
        trust_checkpoint: Whether the checkpoint may run code.
        **kwargs: ``show_progress``, which is not used.

    An example in three lines is in docs/inference.md.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        init_default_scope('mmengine')
        super().__init__(*args, **kwargs)

    def __call__(  # type: ignore[override]
        self,
        inputs: Any,
        batch_size: int = 8,
        topk: int = 5,
        return_vis: bool = False,
        show: bool = False,
        out_dir: str | Path = '',
    ) -> dict[str, list]:
        """Classify images.

        Args:
            inputs (str, Path, np.ndarray, PIL.Image or list): A file, a folder of images, an RGB image of shape
                (H, W, 3), uint8, or a list of files and images.
            batch_size (int): Images at a time; those of different sizes go one by one. Defaults to 8.
            topk (int): Number of classes to return, the most likely ones. Defaults to 5.
            return_vis (bool): Whether to return drawn images. Defaults to False.
            show (bool): Whether to show them in a window. Defaults to False.
            out_dir (str or Path): Folder for drawn images (``vis/IMAGE``) and predictions (``preds/IMAGE.json``).
                Defaults to '': nothing is written.

        Returns:
            dict: ``predictions``, for each image a dict of ``labels`` (int), ``classes`` (names) and ``scores``
            (softmax probabilities), the most likely first; ``visualization``, with ``return_vis`` the drawn
            images, uint8 RGB of shape (H, W, 3).

        Raises:
            FileNotFoundError: If there is no such image.
            ValueError: If a file is no image, or an argument is out of range.
        """
        if batch_size < 1 or topk < 1:
            raise ValueError(f'batch_size and topk must be at least 1, got {batch_size} and {topk}')
        every = images_of(inputs)
        results: dict[str, list] = dict(predictions=[], visualization=[])
        for begin in range(0, len(every), batch_size):
            names = [_name(one, begin + i) for i, one in enumerate(every[begin : begin + batch_size])]
            images = [_read(one) for one in every[begin : begin + batch_size]]
            predictions = self.postprocess(self.forward(self._batch(images)), topk=topk)
            results['predictions'] += predictions
            if out_dir:
                for name, prediction in zip(names, predictions, strict=True):
                    dump(prediction, osp.join(out_dir, 'preds', f'{osp.splitext(name)[0]}.json'))
            if return_vis or show or out_dir:
                drawn = self.visualize(images, predictions, show=show, names=names, out_dir=out_dir)
                results['visualization'] += drawn if return_vis else []
        return results

    @torch.no_grad()
    def forward(self, inputs: list[Tensor], **kwargs: Any) -> list[Tensor]:
        """The logits of images that are of equal size in each item, (N, num_classes) each."""
        found = [self.model.test_step(dict(inputs=images)) for images in inputs]
        return [sample['logits'] for samples in found for sample in samples]

    def postprocess(self, preds: list[Tensor], *args: Any, topk: int = 5, **kwargs: Any) -> list[dict]:  # type: ignore[override]
        """The most likely classes of every image."""
        return [_most_likely(logits, topk, self.classes) for logits in preds]

    def visualize(  # type: ignore[override]
        self,
        inputs: Sequence[Image.Image],
        preds: Sequence[Mapping],
        show: bool = False,
        names: Sequence[str] = (),
        out_dir: str | Path = '',
        **kwargs: Any,
    ) -> list[np.ndarray]:
        """Write the classes onto the images."""
        pairs = zip(inputs, preds, strict=True)
        drawn = [draw_classes(image, found['classes'], found['scores']) for image, found in pairs]
        for i, image in enumerate(drawn):
            if show:
                image.show()
            if out_dir:
                path = Path(out_dir, 'vis', names[i])
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
        return [np.asarray(image) for image in drawn]

    def _batch(self, images: Sequence[Image.Image]) -> list[Tensor]:
        """One batch, or one for each image if they differ in size."""
        tensors = [self.pipeline(image) for image in images]
        if len({tensor.shape for tensor in tensors}) == 1:
            return [torch.stack(tensors)]
        return [tensor[None] for tensor in tensors]

    def _load_weights_to_model(self, model: nn.Module, checkpoint: dict | None, cfg: Any) -> None:
        super()._load_weights_to_model(model, checkpoint, cfg)
        meta = (checkpoint or {}).get('meta') or {}
        self.classes = tuple((meta.get('dataset_meta') or {}).get('classes') or ())

    def _init_pipeline(self, cfg: Config | ConfigDict) -> Callable[[Image.Image], Tensor]:
        dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
        if not str(dataset.get('type')).startswith('resist_mm.'):
            raise ValueError(
                f"test_dataloader.dataset must be one of this package's sets of images with labels, such as "
                f'resist_mm.ImageFolder, got {dataset.get("type")!r}; detectors need DetInferencer'
            )
        image_set = DATASETS.get(dataset['type'])
        size = image_set.image_size if isinstance(image_set, type) and issubclass(image_set, ImageSet) else None
        pipeline = build_pipeline(dataset.get('pipeline') or ())
        in_memory = dataset.get('in_memory', False)

        def prepare(image: Image.Image) -> Tensor:
            if size is not None and image.size != size:
                image = image.resize(size, Image.Resampling.BILINEAR)
            if pipeline is None:
                return pil_to_tensor(image)
            return pipeline(pil_to_tensor(image) if in_memory else image)

        return prepare

    def _init_collate(self, cfg: Config | ConfigDict) -> None:  # type: ignore[override]
        return None

    def _init_visualizer(self, cfg: Config | ConfigDict) -> None:
        return None  # the one of the config is for the log of a run


def _most_likely(logits: Tensor, topk: int, names: Sequence[str]) -> dict[str, list]:
    scores, labels = logits.softmax(dim=0).topk(min(topk, len(logits)))
    chosen = labels.tolist()
    named = len(names) == len(logits)
    classes = [names[label] if named else str(label) for label in chosen]
    return dict(labels=chosen, classes=classes, scores=scores.tolist())


def _name(image: Any, number: int) -> str:
    return osp.basename(image) if isinstance(image, str) else f'{number:08}.jpg'


def _read(image: Any) -> Image.Image:
    if isinstance(image, Image.Image):
        return image.convert('RGB')
    if isinstance(image, np.ndarray):
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(f'an array must be uint8 of shape (H, W, 3), got {image.dtype} of {image.shape}')
        return Image.fromarray(image)
    if not isinstance(image, str):
        raise TypeError(f'an image must be a file, an array or a PIL image, got {type(image).__name__}')
    if not osp.isfile(image):
        raise FileNotFoundError(f'there is no image {image}')
    try:
        with Image.open(image) as opened:
            return opened.convert('RGB')
    except OSError as error:
        raise ValueError(f'{image} cannot be read as an image: {error}') from None
