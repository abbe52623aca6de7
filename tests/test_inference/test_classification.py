"""Classifiers on images, as docs/inference.md says."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image

from resist_mm import ImageClassificationInferencer
from resist_mm.checkpoint import BrokenCheckpoint, UntrustedCheckpoint
from resist_mm.registry import MODELS
from tests.test_tools.commands import run_tool

PAGE = Path(__file__).parents[2] / 'docs/inference.md'
CLASSES = ('cat', 'dog', 'bird')
TO_FLOAT = dict(type='ToDtype', dtype='float32', scale=True)


def config(**dataset: object) -> Config:
    pipeline = [dict(type='Resize', size=(24, 24)), dict(type='ToImage'), TO_FLOAT]
    dataset = dict(type='resist_mm.ImageFolder', pipeline=pipeline) | dataset
    backbone = dict(type='resist_mm.PreActResNet', depth=18, base_channels=4, stem='cifar')
    model = dict(type='resist_mm.ImageClassifier', backbone=backbone, num_classes=3)
    return Config(dict(model=model, test_dataloader=dict(dataset=dataset), default_scope='mmengine'))


def classifier(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return MODELS.build(config().model.to_dict()).eval()


@pytest.fixture(scope='module')
def work_dir(tmp_path_factory) -> Path:
    """A config, a checkpoint and three images, two of a size, as a run leaves them."""
    folder = tmp_path_factory.mktemp('run')
    (folder / 'NAME.py').write_text(config().pretty_text)
    meta = dict(dataset_meta=dict(classes=CLASSES))
    torch.save(dict(state_dict=classifier().state_dict(), meta=meta), folder / 'epoch_90.pth')
    (folder / 'images').mkdir()
    for i, size in enumerate([(40, 30), (40, 30), (32, 32)]):
        pixels = np.random.default_rng(i).integers(256, size=(*size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{i}.png')
    (folder / 'images' / 'notes.txt').write_text('no image')
    return folder


def test_the_three_lines(work_dir: Path, monkeypatch):
    monkeypatch.chdir(work_dir)
    blocks = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
    [lines] = [block for block in blocks if 'ImageClassificationInferencer' in block]
    names: dict = {}
    exec(lines.replace('work_dirs/NAME/', ''), names)
    predictions = names['found']['predictions']
    assert len(predictions) == 3
    for i, prediction in enumerate(predictions):
        image = Image.open(work_dir / 'images' / f'{i}.png')
        pixels = torch.from_numpy(np.array(image.resize((24, 24), Image.Resampling.BILINEAR))).permute(2, 0, 1)
        expected = classifier()(pixels[None] / 255)[0].softmax(0).sort(descending=True)
        assert prediction['labels'] == expected.indices.tolist()
        assert prediction['classes'] == [CLASSES[label] for label in prediction['labels']]
        assert prediction['scores'] == pytest.approx(expected.values.tolist(), abs=1e-4)
        assert json.loads((work_dir / f'found/preds/{i}.json').read_text()) == prediction
        drawn = Image.open(work_dir / f'found/vis/{i}.png')
        assert min(drawn.size) == 224
        plain = np.asarray(image.resize(drawn.size, Image.Resampling.BICUBIC), dtype=float)
        changed = np.abs(np.asarray(drawn, dtype=float) - plain).max(axis=2) > 1
        assert changed[:60, :60].mean() > 0.5 and not changed[150:, 150:].any(), 'text in the upper left corner'


def test_the_command(work_dir: Path, tmp_path: Path):
    args = (work_dir / 'images', work_dir / 'NAME.py', work_dir / 'epoch_90.pth', '--topk', 2)
    out = run_tool('demo.py', *args, '--out-dir', tmp_path / 'found')
    assert (
        out.splitlines()[-1]
        == f'3 image(s): pictures in {tmp_path}/found/vis, predictions in {tmp_path}/found/preds'
    )
    inferencer = ImageClassificationInferencer(Config.fromfile(work_dir / 'NAME.py'), work_dir / 'epoch_90.pth')
    for i in range(3):
        written = json.loads((tmp_path / f'found/preds/{i}.json').read_text())
        (expected,) = inferencer(work_dir / f'images/{i}.png', topk=2)['predictions']
        assert written['classes'] == expected['classes'] and len(written['classes']) == 2
        assert written['scores'] == pytest.approx(expected['scores'], abs=1e-4)
        assert (tmp_path / f'found/vis/{i}.png').is_file()


def test_images_of_different_sizes_and_kinds(work_dir: Path):
    cfg = config(pipeline=[dict(type='ToImage'), TO_FLOAT])
    inferencer = ImageClassificationInferencer(cfg, work_dir / 'epoch_90.pth')
    paths = [work_dir / 'images' / f'{i}.png' for i in range(3)]
    alone = [inferencer(path)['predictions'][0] for path in paths]
    mixed = [str(paths[0]), np.asarray(Image.open(paths[1])), Image.open(paths[2])]
    together = inferencer(mixed, return_vis=True, topk=2)
    assert [p['labels'] for p in together['predictions']] == [p['labels'][:2] for p in alone]
    assert [image.dtype for image in together['visualization']] == [np.uint8] * 3


def test_cifar_images_have_the_size_of_its_networks(work_dir: Path):
    preprocessor = dict(type='resist_mm.BatchPreprocessor', test_pipeline=[TO_FLOAT])
    cfg = config(type='resist_mm.CIFAR10', pipeline=(), in_memory=True, data_root='not there')
    cfg.model.data_preprocessor = preprocessor
    inferencer = ImageClassificationInferencer(cfg, work_dir / 'epoch_90.pth')
    image = Image.open(work_dir / 'images/0.png')
    small = image.resize((32, 32), Image.Resampling.BILINEAR)
    assert inferencer(image)['predictions'] == inferencer(small)['predictions']


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


def test_no_code_runs_and_nothing_damaged_is_used(work_dir: Path, tmp_path: Path):
    trap = tmp_path / 'trap'
    state = dict(state_dict=classifier().state_dict(), meta=dict(trap=Touch(trap)))
    torch.save(state, tmp_path / 'bad.pth')
    with pytest.raises(UntrustedCheckpoint, match=r'bad\.pth can run code when it is read'):
        ImageClassificationInferencer(config(), tmp_path / 'bad.pth')
    assert not trap.exists()
    ImageClassificationInferencer(config(), tmp_path / 'bad.pth', trust_checkpoint=True)
    assert trap.exists()
    whole = (work_dir / 'epoch_90.pth').read_bytes()
    (tmp_path / 'half.pth').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BrokenCheckpoint, match=r'half\.pth is incomplete or damaged'):
        ImageClassificationInferencer(config(), tmp_path / 'half.pth')
    with pytest.raises(UntrustedCheckpoint, match='name a config of your own'):
        ImageClassificationInferencer(weights=work_dir / 'epoch_90.pth')


def test_mistakes(work_dir: Path, tmp_path: Path):
    checkpoint = work_dir / 'epoch_90.pth'
    other = config()
    other.model.num_classes = 4
    with pytest.raises(ValueError, match=r'epoch_90\.pth is no checkpoint of this model: it lacks head\.weight'):
        ImageClassificationInferencer(other, checkpoint)
    with pytest.raises(FileNotFoundError, match=r'there is no config file nope\.py'):
        ImageClassificationInferencer('nope.py', checkpoint)
    with pytest.raises(ValueError, match=r"got 'CocoDataset'; detectors need DetInferencer"):
        ImageClassificationInferencer(config(type='CocoDataset'), checkpoint)
    inferencer = ImageClassificationInferencer(config(), checkpoint)
    with pytest.raises(FileNotFoundError, match='there is no image or folder nothing'):
        inferencer('nothing')
    with pytest.raises(FileNotFoundError, match='has no image'):
        inferencer(tmp_path)
    with pytest.raises(ValueError, match=r'notes\.txt cannot be read as an image'):
        inferencer(work_dir / 'images' / 'notes.txt')
    with pytest.raises(ValueError, match='must be at least 1, got 0'):
        inferencer(work_dir / 'images', batch_size=0)
