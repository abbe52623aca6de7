"""What is found in the data before training: on generated images, broken in one way each."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader

from resist_mm.datasets import make_shapes_voc
from resist_mm.datasets.annotations import DataError, empty_sets_explained
from resist_mm.hooks import DataCheckHook
from tests.test_tools.commands import start_tool

pytest.importorskip('mmdet')
CLASSES = ('circle', 'square', 'triangle', 'star', 'cross')


@pytest.fixture
def root(tmp_path: Path) -> Path:
    make_shapes_voc(tmp_path, train=6, test=2, size=64)
    return tmp_path


def voc(root: Path, classes: tuple[str, ...] = CLASSES, **kwargs):
    from mmdet.datasets import VOCDataset

    return VOCDataset(
        metainfo=dict(classes=classes),
        data_root=f'{root}/',
        ann_file='Shapes/ImageSets/Main/trainval.txt',
        data_prefix=dict(sub_data_root='Shapes/'),
        **kwargs,
    )


def coco(file: Path, classes: tuple[str, ...]):
    from mmdet.datasets import CocoDataset

    return CocoDataset(metainfo=dict(classes=classes), ann_file=str(file), data_prefix=dict(img=''))


def checked(dataset, num_classes: int = 5, batch_size: int = 2, drop_last: bool = False) -> list[str]:
    """What is logged."""
    log: list[str] = []
    head = nn.Module()
    head.num_classes = num_classes
    loader = DataLoader(dataset, batch_size, drop_last=drop_last)
    DataCheckHook().before_train(
        SimpleNamespace(
            train_dataloader=loader,
            val_loop=None,
            model=nn.ModuleDict(dict(bbox_head=head)),
            logger=SimpleNamespace(info=log.append),
            world_size=1,
        )
    )
    return log


def xml_of(root: Path) -> list[Path]:
    return sorted((root / 'Shapes' / 'Annotations').glob('*.xml'))


def trained_files(root: Path) -> list[Path]:
    names = (root / 'Shapes' / 'ImageSets' / 'Main' / 'trainval.txt').read_text().split()
    return [root / 'Shapes' / 'Annotations' / f'{name}.xml' for name in names]


def test_counts_are_logged(root: Path):
    text = ''.join(file.read_text() for file in trained_files(root))
    [line, *more] = checked(voc(root))
    instances = text.count('<object>')
    assert line.startswith(f'train_dataloader: 6 images, {instances} instances of 5 classes: ')
    for name in CLASSES:
        count = text.count(f'<name>{name}</name>')
        assert (f'{name} {count}' in line) if count else any(name in other for other in more)


def test_wrapped_sets_are_counted_each(root: Path):
    assert sum('6 images' in line for line in checked(ConcatDataset([voc(root), voc(root)]))) == 2


def test_classes_left_out_and_without_an_instance_are_named(root: Path):
    log = checked(voc(root, classes=('circle', 'square', 'triangle', 'star', 'person')))
    assert 'train_dataloader: no instance of ' in ' '.join(log) and 'person' in log[1]
    count = sum(file.read_text().count('<name>cross</name>') for file in trained_files(root))
    assert f'ignored, because their class is not among metainfo.classes: cross ({count})' in ' '.join(log)


def _replace(pattern: str, by: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = trained_files(root)[0]
        file.write_text(re.sub(pattern, by, file.read_text(), count=1, flags=re.DOTALL))

    return change


def _remove_image(root: Path) -> None:
    (root / 'Shapes' / 'JPEGImages' / f'{trained_files(root)[0].stem}.jpg').unlink()


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (_replace(r'<xmax>\d+</xmax>', '<xmax>1</xmax>'), r'{file}: the box \(.*\) is empty'),
        (
            _replace(r'<xmin>\d+</xmin>(.*?)<xmax>\d+</xmax>', r'<xmin>90</xmin>\1<xmax>99</xmax>'),
            r'{file}: the box \(89, .* lies outside its image of 64 x 64',
        ),
        (_remove_image, '1 of the images of .*trainval.txt do not exist, the first is .*jpg'),
    ],
)
def test_damage_is_an_error_that_names_the_file(root: Path, damage: Callable[[Path], None], message: str):
    damage(root)
    with pytest.raises(DataError, match='train_dataloader: ' + message.format(file=trained_files(root)[0])):
        checked(voc(root))


def test_a_box_over_the_edge_is_counted(root: Path):
    _replace(r'<xmax>\d+</xmax>', '<xmax>75</xmax>')(root)
    assert 'train_dataloader: 1 boxes reach over the edge of their image' in checked(voc(root))


def test_no_object_of_any_class(root: Path):
    with pytest.raises(DataError, match='no object in any image is of one of the classes'):
        checked(voc(root, classes=('person',)), num_classes=1)


def test_a_set_that_is_left_without_images(root: Path):
    with (
        pytest.raises(
            DataError, match=r'trainval.txt has no image with an object of the classes person; its objects'
        ),
        empty_sets_explained(),
    ):
        voc(root, classes=('person',), filter_cfg=dict(filter_empty_gt=True))
    (root / 'Shapes/ImageSets/Main/trainval.txt').write_text('')
    with pytest.raises(DataError, match=r'trainval.txt has no image$'), empty_sets_explained():
        voc(root)


def test_classes_of_the_model(root: Path):
    with pytest.raises(
        DataError, match=r'has 5 classes .* model.bbox_head \(Module\) is made for 20: set its num_'
    ):
        checked(voc(root), num_classes=20)
    with pytest.raises(DataError, match=r"must be a tuple of names, got the text 'star': write \('star',\)"):
        dataset = voc(root)
        dataset._metainfo['classes'] = 'star'
        checked(dataset)


def test_fewer_images_than_a_batch(root: Path):
    assert checked(voc(root), batch_size=8)
    with pytest.raises(
        DataError, match=r'the set has 6 images, fewer than a batch of 8 .*lower train_dataloader.batch'
    ):
        checked(voc(root), batch_size=8, drop_last=True)


def test_a_class_that_coco_annotations_lack(tmp_path: Path):
    file = tmp_path / 'annotations.json'
    box = dict(id=1, image_id=1, category_id=2, bbox=[1, 1, 5, 5], area=25, iscrowd=0)
    image = dict(id=1, file_name=str(tmp_path / 'a.jpg'), width=10, height=10)
    (tmp_path / 'a.jpg').touch()
    categories = [dict(id=1, name='cat'), dict(id=2, name='dog')]
    file.write_text(json.dumps(dict(images=[image], annotations=[box], categories=categories)))
    assert 'dog 1' in checked(coco(file, ('cat', 'dog')), num_classes=2)[0]
    with pytest.raises(DataError, match=r'has no category horse, which .* its categories are cat, dog'):
        checked(coco(file, ('horse', 'dog')), num_classes=2)
    # mmdet would call the dog a cat
    with pytest.raises(DataError, match=r"in another order .*: set classes = \('cat', 'dog'\)"):
        checked(coco(file, ('dog', 'cat')), num_classes=2)


def test_a_run_ends_with_the_error_in_one_line(root: Path):
    options = ('--cfg-options', 'model.bbox_head.num_classes=3', 'train_cfg.max_epochs=1', 'val_cfg=None')
    more = ('val_dataloader=None', 'val_evaluator=None', 'train_cfg.val_interval=1')
    work_dir = root / 'run'
    config = 'configs/quickstart/yolo_resist_shapes.py'
    arguments = (config, '--work-dir', work_dir, *options, *more)
    result = start_tool('train.py', *arguments, RESIST_MM_SHAPES=f'{root}/')
    assert result.returncode == 1
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith('DataError: train_dataloader: the data set has 5 classes'), result.stdout[-3000:]
    assert '6 images' in result.stdout
