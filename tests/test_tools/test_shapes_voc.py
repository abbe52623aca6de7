import hashlib
import json
import runpy
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resist_mm.datasets import SHAPES_METAINFO, make_shapes_voc
from resist_mm.datasets.shapes_voc import CLASSES, FOLDER, MIN_VISIBLE, draw_image

ROOT = Path(__file__).parents[2]
SIZE = 96


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_shapes_voc(tmp_path_factory.mktemp('shapes'), train=12, test=5, size=SIZE, seed=3)


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob('*')) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_layout_is_that_of_voc(shapes: Path):
    assert shapes.name == FOLDER
    assert (shapes / 'ImageSets/Main/trainval.txt').read_text().split()[:2] == ['trainval_00000', 'trainval_00001']
    ids = [line for split in ('trainval', 'test') for line in (shapes / f'ImageSets/Main/{split}.txt').open()]
    assert len(set(ids)) == 17
    for image_id in map(str.strip, ids):
        assert Image.open(shapes / f'JPEGImages/{image_id}.jpg').size == (SIZE, SIZE)
        assert ET.parse(shapes / f'Annotations/{image_id}.xml').findtext('size/width') == str(SIZE)


def test_same_parameters_give_the_same_bytes(shapes: Path, tmp_path: Path):
    assert digests(make_shapes_voc(tmp_path, train=12, test=5, size=SIZE, seed=3)) == digests(shapes)


def test_an_image_does_not_depend_on_how_many_there_are(shapes: Path, tmp_path: Path):
    small = digests(make_shapes_voc(tmp_path, train=2, test=1, size=SIZE, seed=3))
    large = digests(shapes)
    images = [name for name in small if name.endswith(('.jpg', '.xml'))]
    assert len(images) == 6
    assert all(small[name] == large[name] for name in images)


def test_seeds_and_splits_differ(shapes: Path, tmp_path: Path):
    other = make_shapes_voc(tmp_path, train=1, test=1, size=SIZE, seed=4)
    first = {
        (folder / f'JPEGImages/{name}_00000.jpg').read_bytes()
        for folder in (shapes, other)
        for name in ('trainval', 'test')
    }
    assert len(first) == 4


@pytest.mark.parametrize('seed', range(20))
def test_objects_are_in_the_image_and_hardly_covered(seed: int):
    image, objects = draw_image(np.random.default_rng(seed), SIZE)
    assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8
    assert 1 <= len(objects) <= 4
    assert sum(obj.mask.astype(int) for obj in objects).max() == 1, 'two objects claim one pixel'
    for obj in objects:
        x_min, y_min, x_max, y_max = obj.box
        assert 0.15 * SIZE < max(x_max - x_min, y_max - y_min) + 1 <= 0.5 * SIZE + 1
        assert obj.mask[y_min : y_max + 1, x_min : x_max + 1].sum() == obj.mask.sum()
        for edge in (obj.mask[y_min], obj.mask[y_max], obj.mask[:, x_min], obj.mask[:, x_max]):
            assert edge.any(), 'the box is not tight'


def test_annotated_boxes_enclose_the_drawn_pixels(shapes: Path):
    """What the JPEG shows, not the masks that the boxes come from: colours change abruptly at the box."""
    for i in range(12):
        _, objects = draw_image(np.random.default_rng([3, 0, i]), SIZE)
        elements = ET.parse(shapes / f'Annotations/trainval_{i:05d}.xml').findall('object')
        image = np.asarray(Image.open(shapes / f'JPEGImages/trainval_{i:05d}.jpg')).astype(float)
        assert len(elements) == len(objects)
        for element, obj in zip(elements, objects, strict=True):
            one_based = [int(element.findtext(f'bndbox/{tag}', '')) for tag in ('xmin', 'ymin', 'xmax', 'ymax')]
            rows, columns = np.nonzero(obj.mask)
            assert one_based == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
            around = np.delete(image.reshape(-1, 3), np.flatnonzero(obj.mask), axis=0).mean(axis=0)
            assert np.linalg.norm(image[obj.mask].mean(axis=0) - around) > 40, 'the object does not stand out'


def test_every_class_occurs():
    names = {obj.name for i in range(40) for obj in draw_image(np.random.default_rng(i), SIZE)[1]}
    assert names == set(CLASSES)
    assert len(SHAPES_METAINFO['palette']) == len(SHAPES_METAINFO['classes']) == len(CLASSES)
    assert 0 < MIN_VISIBLE < 1


def test_loads_as_a_voc_dataset(shapes: Path):
    datasets = pytest.importorskip('mmdet.datasets')
    loaded = datasets.VOCDataset(
        data_root=str(shapes.parent),
        ann_file=f'{FOLDER}/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root=f'{FOLDER}/'),
        metainfo=SHAPES_METAINFO,
        pipeline=[],
    )
    assert len(loaded) == 12
    assert loaded.metainfo['classes'] == CLASSES
    info = loaded.get_data_info(0)
    first = ET.parse(shapes / 'Annotations/trainval_00000.xml').findall('object')
    assert [instance['bbox_label'] for instance in info['instances']] == [
        CLASSES.index(obj.findtext('name', '')) for obj in first
    ]
    assert info['instances'][0]['bbox'][0] == int(first[0].findtext('bndbox/xmin', '')) - 1


def test_a_complete_set_is_left_alone(shapes: Path):
    before = (shapes / 'shapes.json').stat().st_mtime_ns
    assert make_shapes_voc(shapes.parent, train=12, test=5, size=SIZE, seed=3) == shapes
    assert (shapes / 'shapes.json').stat().st_mtime_ns == before


def test_other_parameters_are_refused(shapes: Path):
    with pytest.raises(ValueError, match=r'seed=3, not 4.*choose another folder'):
        make_shapes_voc(shapes.parent, train=12, test=5, size=SIZE, seed=4)


def test_another_folder_of_that_name_is_not_touched(tmp_path: Path):
    (tmp_path / FOLDER).mkdir()
    with pytest.raises(FileExistsError, match='not a synthetic set'):
        make_shapes_voc(tmp_path, train=1, test=1, size=SIZE)
    assert list((tmp_path / FOLDER).iterdir()) == []


@pytest.mark.parametrize('key, value', [('train', 0), ('test', -1), ('size', 32), ('seed', -1)])
def test_parameters_out_of_range(tmp_path: Path, key: str, value: int):
    with pytest.raises(ValueError, match=f'{key} must be at least'):
        make_shapes_voc(tmp_path, **{key: value})
    assert list(tmp_path.iterdir()) == []


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr('resist_mm.datasets.shapes_voc._annotation', interrupt)
    with pytest.raises(KeyboardInterrupt):
        make_shapes_voc(tmp_path, train=1, test=1, size=SIZE)
    assert list(tmp_path.iterdir()) == []


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def run(*args: str) -> None:
        monkeypatch.setattr('sys.argv', ['make_shapes_voc.py', str(tmp_path), '--train=2', '--test=1', *args])
        runpy.run_path(str(ROOT / 'tools/dataset_converters/make_shapes_voc.py'), run_name='__main__')

    run('--size=64')
    assert '2 images to train, 1 to test' in capsys.readouterr().out
    assert json.loads((tmp_path / FOLDER / 'shapes.json').read_text())['size'] == 64
    with pytest.raises(SystemExit, match='size=64, not 96: remove it'):
        run('--size=96')
