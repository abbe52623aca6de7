"""Exports of a whole model: the scale is in them, and they run without a hook or any package of OpenMMLab."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from resist_mm.models import partitioned_stages

CONFIG = Path(__file__).parents[2] / 'configs/quickstart/yolo_resist_shapes.py'


class Raw(nn.Module):
    """A detector from images to its head's output."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.detector(images, mode='tensor'))


@pytest.fixture(scope='module', params=['YOLOv2', 'backbone'])
def model(request) -> nn.Module:
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmdet'):
        detector = MODELS.build(Config.fromfile(CONFIG).model)
    [stage] = partitioned_stages(detector).values()
    stage.scale.fill_(0.3)
    return (Raw(detector) if request.param == 'YOLOv2' else detector.backbone).eval()


IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def check_close(found: list, model: nn.Module) -> None:
    with torch.no_grad():
        expected = tree_leaves(model(IMAGES))
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b, rtol=0, atol=1e-5)


def test_torch_export(model: nn.Module):
    exported = torch.export.export(model, (IMAGES,)).module()
    check_close(tree_leaves(exported(IMAGES)), model)
    unscaled = copy.deepcopy(model)
    [stage] = partitioned_stages(unscaled).values()
    stage.scale.fill_(1)
    with pytest.raises(AssertionError):
        check_close(tree_leaves(exported(IMAGES)), unscaled)


def test_onnx(model: nn.Module, tmp_path: Path):
    for package in ('onnx', 'onnxscript'):
        pytest.importorskip(package)
    onnxruntime = pytest.importorskip('onnxruntime')
    torch.onnx.export(model, (IMAGES,), dynamo=True, verbose=False).save(tmp_path / 'model.onnx')
    session = onnxruntime.InferenceSession(tmp_path / 'model.onnx')
    check_close(session.run(None, {session.get_inputs()[0].name: IMAGES.numpy()}), model)
