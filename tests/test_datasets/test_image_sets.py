"""Sets of images: layouts, labels, memory, errors; on generated files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from mmengine.runner import Runner
from PIL import Image
from torch.testing import assert_close
from torch.utils.data import DataLoader

from resist_mm.datasets import CIFAR10, CIFAR100, ImageFolder, ImageNet, ImageNetV2, ImageSet, collate
from resist_mm.registry import DATASETS
from tests import generated_sets

TO_TENSOR = [dict(type='ToImage'), dict(type='ToDtype', dtype='float32', scale=True)]


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    generated_sets.without_checksums(monkeypatch)
    generated_sets.make_cifar10(tmp_path)
    return generated_sets.make_cifar100(tmp_path)


def test_cifar_from_torchvisions_layout(cifar: Path):
    train, test = CIFAR10(str(cifar)), CIFAR10(str(cifar), split='test')
    assert (len(train), len(test)) == (20, 4)
    theirs = torchvision.datasets.CIFAR10(cifar, train=True)
    for i in (0, 7, 19):
        assert np.array_equal(train[i]['inputs'], theirs[i][0])
        assert train[i]['labels'] == theirs[i][1]
    assert train.metainfo['classes'] == tuple(f'class {n}' for n in range(10))
    hundred = CIFAR100(str(cifar), split='test')
    assert len(hundred.metainfo['classes']) == 100
    assert hundred.labels.tolist() == [0, 30, 50, 99]


def test_a_set_in_memory_gives_the_same_images(cifar: Path):
    files, memory = CIFAR10(str(cifar), pipeline=TO_TENSOR), CIFAR10(str(cifar), in_memory=True)
    assert memory.memory is not None and memory.memory.dtype is torch.uint8
    loaders = [DataLoader(dataset, batch_size=6, collate_fn=collate) for dataset in (files, memory)]
    for by_file, at_once in zip(*loaders, strict=True):
        assert_close(by_file['inputs'], at_once['inputs'] / 255)
        assert torch.equal(by_file['labels'], at_once['labels'])


def test_a_set_in_memory_may_have_a_pipeline_for_single_images(cifar: Path):
    dataset = CIFAR10(str(cifar), in_memory=True, pipeline=[dict(type='CenterCrop', size=10), *TO_TENSOR])
    batch = next(iter(DataLoader(dataset, batch_size=3, collate_fn=collate)))
    assert batch['inputs'].shape == (3, 3, 10, 10)
    assert batch['inputs'].dtype is torch.float32


def test_another_collate_function_is_told_what_to_change(cifar: Path):
    with pytest.raises(KeyError, match=r"collate_fn=dict\(type='resist_mm.collate'\)"):
        next(iter(DataLoader(CIFAR10(str(cifar), in_memory=True), batch_size=3)))


def test_mmengine_builds_a_loader_from_a_config(cifar: Path):
    loader = Runner.build_dataloader(
        dict(
            batch_size=4,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='resist_mm.collate'),
            dataset=dict(type='resist_mm.CIFAR10', data_root=str(cifar), in_memory=True),
        )
    )
    assert [len(batch['labels']) for batch in loader] == [4] * 5


def test_class_folders_take_the_place_of_cifars_files(tmp_path: Path):
    generated_sets.make_image_folders(tmp_path, ('train', 'test'), tuple('abcdefghij'), per_class=2)
    dataset = CIFAR10(str(tmp_path), split='test', in_memory=True)
    assert dataset.metainfo['classes'] == tuple('abcdefghij')
    assert dataset.labels.tolist() == [label for label in range(10) for _ in range(2)]
    assert dataset.memory is not None
    assert dataset.memory[:4, 0, 0, 0].tolist() == [0, 1, 20, 21]


def test_class_folders_of_another_set_are_refused(tmp_path: Path):
    generated_sets.make_image_folders(tmp_path, ('train',), tuple('abcdefghi'), per_class=1)
    with pytest.raises(
        RuntimeError, match=r'CIFAR10: .*train. has 9 class folders, not 10: .*resist_mm.ImageFolder'
    ):
        CIFAR10(str(tmp_path))
    with pytest.raises(RuntimeError, match=r'CIFAR100: .* not 100'):
        CIFAR100(str(tmp_path))


def test_max_images_are_spread_over_the_classes(tmp_path: Path):
    generated_sets.make_image_folders(tmp_path, ('train',), ('a', 'b', 'c'), per_class=4)
    dataset = ImageFolder(str(tmp_path), split='train', max_images=6)
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert [dataset[i]['inputs'].getpixel((0, 0))[0] for i in range(6)] == [0, 2, 20, 22, 40, 42]
    with pytest.raises(ValueError, match='max_images must be at least 1, got 0'):
        ImageFolder(str(tmp_path), split='train', max_images=0)


def test_more_max_images_than_there_are_mean_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    generated_sets.make_image_folders(tmp_path, ('train',), ('a', 'b'), per_class=2)
    logged: list[str] = []
    monkeypatch.setattr('resist_mm.datasets.image_set.print_log', lambda message, _: logged.append(message))
    for max_images in (4, 5):
        assert len(ImageFolder(str(tmp_path), split='train', max_images=max_images)) == 4
    assert logged == ['ImageFolder.max_images is 5, but there are 4 images: all are used']


def test_images_in_memory_must_have_one_size(tmp_path: Path):
    generated_sets.make_image_folders(tmp_path, ('',), ('a',), per_class=1)
    Image.new('RGB', (16, 32)).save(tmp_path / 'a/other.jpg')
    with pytest.raises(ValueError, match=r'in_memory=True needs images of equal size, but .*other\.jpg'):
        ImageFolder(str(tmp_path), in_memory=True)


def test_a_damaged_image_is_named(tmp_path: Path):
    generated_sets.make_image_folders(tmp_path, ('',), ('a',), per_class=1)
    (tmp_path / 'a/0000.jpg').write_bytes(b'no image')
    dataset = ImageFolder(str(tmp_path))
    with pytest.raises(RuntimeError, match=r'0000\.jpg.*damaged'):
        dataset[0]


def test_a_missing_cifar_says_where_it_looked_and_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_download(*args: object, **kwargs: object) -> None:
        raise AssertionError('a download was tried')

    monkeypatch.setattr(torchvision.datasets.CIFAR10, 'download', no_download)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        DATASETS.build(dict(type='resist_mm.CIFAR10', data_root='nowhere'))
    message = str(caught.value)
    assert str(tmp_path / 'nowhere/cifar-10-batches-py/data_batch_1') in message
    assert str(tmp_path / 'nowhere/train') in message
    assert 'cifar-10-python.tar.gz' in message and 'download=True' in message and 'RESIST_MM_CIFAR10' in message


def test_a_damaged_cifar_is_told_from_a_missing_one(tmp_path: Path):
    generated_sets.make_cifar10(tmp_path)  # its checksums are not the real ones
    with pytest.raises(RuntimeError, match=r'data_batch_1.* is damaged .*MD5'):
        CIFAR10(str(tmp_path))


def test_download_happens_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    generated_sets.without_checksums(monkeypatch)
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, 'download', lambda self: generated_sets.make_cifar10(Path(self.root))
    )
    assert len(CIFAR10(str(tmp_path), download=True)) == 20


def test_a_failed_download_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(self: object) -> None:
        raise OSError('no route to host')

    monkeypatch.setattr(torchvision.datasets.CIFAR10, 'download', offline)
    with pytest.raises(RuntimeError, match=r'download=True, but https://.* cannot be downloaded .*no route'):
        CIFAR10(str(tmp_path), download=True)


def test_an_unknown_split(tmp_path: Path):
    with pytest.raises(ValueError, match=r"CIFAR10.split must be one of \('train', 'test'\), got 'val'"):
        CIFAR10(str(tmp_path), split='val')


def test_missing_folders(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f'there is no folder {str(tmp_path / "x")!r}'):
        ImageFolder(str(tmp_path), split='x')
    with pytest.raises(FileNotFoundError, match='has no class folders'):
        ImageFolder(str(tmp_path))
    (tmp_path / 'a').mkdir()
    with pytest.raises(FileNotFoundError, match=r'/a.* has no images'):
        ImageFolder(str(tmp_path))


def test_imagenet(tmp_path: Path):
    generated_sets.make_imagenet(tmp_path)
    torch.save(({'n00000002': ('great white shark', 'white shark')}, []), tmp_path / 'meta.bin')
    dataset = ImageNet(str(tmp_path), split='val')
    assert len(dataset) == 1000
    assert dataset.metainfo['classes'][1:3] == ('n00000001', 'great white shark, white shark')
    assert dataset[999]['labels'] == 999
    (tmp_path / 'val/n00000002/image.JPEG').unlink()
    (tmp_path / 'val/n00000002').rmdir()
    with pytest.raises(RuntimeError, match=r'999 class folders, not 1000.*ImageFolder'):
        ImageNet(str(tmp_path), split='val')


def test_a_missing_imagenet_says_how_to_unpack_it(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r'train.*image-net\.org.*RESIST_MM_IMAGENET'):
        ImageNet(str(tmp_path))


@pytest.mark.parametrize('variant', list(ImageNetV2.VARIANTS))
def test_imagenetv2_counts_classes_by_number(tmp_path: Path, variant: str):
    generated_sets.make_imagenetv2(tmp_path)
    dataset = ImageNetV2(str(tmp_path), variant)
    assert len(dataset) == 1000
    for index, label in enumerate(dataset.labels.tolist()):
        assert int(Path(dataset.path(index)).parent.name) == label
    assert dataset.metainfo['classes'][10] == '10'


def test_a_missing_or_damaged_imagenetv2(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r'imagenetv2-threshold0\.7\.tar\.gz'):
        ImageNetV2(str(tmp_path), 'threshold-0.7')
    with pytest.raises(ValueError, match=r"must be one of .*got 'top'"):
        ImageNetV2(str(tmp_path), 'top')
    (tmp_path / 'imagenetv2-top-images-format-val/7').mkdir(parents=True)
    Image.new('RGB', (4, 4)).save(tmp_path / 'imagenetv2-top-images-format-val/7/a.jpeg')
    with pytest.raises(RuntimeError, match="must be named 0 to 999, found 1 from '7' to '7'"):
        ImageNetV2(str(tmp_path), 'top-images')


def test_samples_of_an_array():
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    dataset = ImageSet(images, [1, 0], ['a', 'b'])
    assert np.array_equal(np.asarray(dataset[1]['inputs']), images[1])
    assert dataset.metainfo == dict(classes=('a', 'b'), dataset_type='ImageSet')
