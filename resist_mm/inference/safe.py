"""What the inferencers here have in common: reading a config and a checkpoint."""

from __future__ import annotations

import os.path as osp
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS
from torch import nn

from resist_mm.checkpoint import UntrustedCheckpoint, read_from_anywhere
from resist_mm.convert import read_config

from .weights import check_weights

__all__ = ['IMAGE_ENDINGS', 'SafeInferencer', 'images_of']

IMAGE_ENDINGS = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif', '.tiff', '.webp')


class SafeInferencer:
    """Mixed in before an inferencer of mmengine: verifies checkpoints and runs no code from them.

    Args:
        model (str, Path, Config or dict, optional): The config: a file, or ``PACKAGE::FILE``, one of an installed
            package; or what has been read from one. Defaults to None: the config in the checkpoint, which needs
            ``trust_checkpoint``, because building a model from a config can run anything that it names.
        weights (str or Path, optional): The checkpoint, a file or a URL. Defaults to None: initial weights.
        device (str, optional): Defaults to None: a GPU if there is one.
        trust_checkpoint (bool): Whether the checkpoint may run code. Defaults to False.
        **kwargs: Those of the inferencer.

    Raises:
        FileNotFoundError: If there is no such config or checkpoint.
        ValueError: If the config cannot be read, or the weights are not those of its model.
        CheckpointError: If the checkpoint is damaged, or would run code.
    """

    def __init__(
        self,
        model: str | Path | Config | dict | None = None,
        weights: str | Path | None = None,
        device: str | None = None,
        *,
        trust_checkpoint: bool = False,
        **kwargs: Any,
    ) -> None:
        self.trust_checkpoint = trust_checkpoint
        if isinstance(model, str | Path) and _is_file(str(model)):
            model = read_config(model)
        weights = None if weights is None else str(weights)
        super().__init__(model=model, weights=weights, device=device, **kwargs)  # type: ignore[call-arg]

    def _init_model(self, cfg: Config | ConfigDict, weights: str | None, device: str = 'cpu') -> nn.Module:
        """Build the model of a config and load its weights; in place of mmengine's, which trusts checkpoints."""
        if not cfg and not self.trust_checkpoint:
            raise UntrustedCheckpoint(
                f'to build a model from the config in {weights} can run code: name a config of your own as model, '
                'such as the one in the work dir; or, if you trust the checkpoint, set trust_checkpoint=True'
            )
        if not cfg:
            return super()._init_model(cfg, weights, device)  # type: ignore[misc]
        checkpoint = None if weights is None else read_from_anywhere(weights, self.trust_checkpoint)
        cfg.model.pop('pretrained', None)
        model = MODELS.build(cfg.model)
        model.cfg = cfg
        if checkpoint is not None:
            check_weights(model, checkpoint, str(weights))
        self._load_weights_to_model(model, checkpoint, cfg)  # type: ignore[attr-defined]
        return model.to(device).eval()


def images_of(inputs: Any) -> list[Any]:
    """The images to look at: those in a folder by name, or what was given.

    Raises:
        FileNotFoundError: If there is no such file or folder, or no image in the folder.
    """
    if isinstance(inputs, Path):
        inputs = str(inputs)
    if isinstance(inputs, list | tuple):
        return [str(one) if isinstance(one, Path) else one for one in inputs]
    if not isinstance(inputs, str) or '://' in inputs:
        return [inputs]
    if osp.isfile(inputs):
        return [inputs]
    if not osp.isdir(inputs):
        raise FileNotFoundError(f'there is no image or folder {inputs}')
    found = sorted(path for path in Path(inputs).iterdir() if path.suffix.lower() in IMAGE_ENDINGS)
    if not found:
        raise FileNotFoundError(
            f'{inputs} has no image ({", ".join(IMAGE_ENDINGS)}); sub-folders are not searched'
        )
    return [str(path) for path in found]


def _is_file(model: str) -> bool:
    """Whether it names a config file, not a model of a package's metafile."""
    return '::' in model or model.endswith(('.py', '.yml', '.yaml', '.json')) or osp.isfile(model)
