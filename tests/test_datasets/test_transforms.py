"""Pipelines from configs, for single images and for batches."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close
from torchvision.transforms import v2

from resist_mm.datasets import build_pipeline
from resist_mm.datasets.batch_transforms import build_batch_pipeline

NORMALIZE = [
    dict(type='ToImage'),
    dict(type='ToDtype', dtype='float32', scale=True),
    dict(type='Normalize', mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]),
]


def random_images(count: int, size: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def test_names_of_dtypes_and_interpolations_are_understood():
    pipeline = build_pipeline([dict(type='Resize', size=4, interpolation='nearest'), NORMALIZE[1]])
    assert pipeline is not None
    assert pipeline.transforms[0].interpolation is v2.InterpolationMode.NEAREST
    assert pipeline(random_images(1)[0]).dtype is torch.float32


def test_no_pipeline():
    assert build_pipeline([]) is None


@pytest.mark.parametrize(
    'transform, message',
    [
        (
            dict(type='RandomHorizontalFlp'),
            "no transform 'RandomHorizontalFlp': did you mean RandomHorizontalFlip",
        ),
        (dict(type='InterpolationMode'), 'no transform'),
        (dict(size=32), 'a transform is written'),
        (dict(type='ToDtype', dtype='float33'), "ToDtype.dtype must be one of torch's"),
        (dict(type='Resize', size=4, interpolation='smooth'), "interpolation must be one of .*'bilinear'"),
    ],
)
def test_wrong_transforms(transform: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_pipeline([transform])


def test_wrong_arguments_name_the_transform():
    with pytest.raises(TypeError, match=r'v2\.RandomCrop with .*siz.*unexpected keyword'):
        build_pipeline([dict(type='RandomCrop', siz=3)])


def test_a_batch_is_normalised_as_single_images_are():
    images = random_images(5)
    single = build_pipeline(NORMALIZE)
    assert single is not None
    assert_close(build_batch_pipeline(NORMALIZE)(images), torch.stack([single(image) for image in images]))


def test_every_image_of_a_batch_is_cropped_elsewhere():
    images = random_images(200)
    cropped = build_batch_pipeline([dict(type='RandomCrop', size=8, padding=2)])(images)
    padded = torch.nn.functional.pad(images, [2] * 4)
    places = set()
    for image, source in zip(cropped, padded, strict=True):
        found = [(i, j) for i in range(5) for j in range(5) if torch.equal(image, source[:, i : i + 8, j : j + 8])]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) == 25, 'not all crops occur'


def test_half_of_a_batch_is_flipped():
    images = random_images(400)
    flipped = build_batch_pipeline([dict(type='RandomHorizontalFlip')])(images)
    is_flipped = [torch.equal(new, old.flip(-1)) for new, old in zip(flipped, images, strict=True)]
    is_same = [torch.equal(new, old) for new, old in zip(flipped, images, strict=True)]
    assert sum(is_flipped) + sum(is_same) == 400
    assert 150 < sum(is_flipped) < 250


def test_augmentation_of_batches_follows_the_seed():
    pipeline = build_batch_pipeline(
        [dict(type='RandomCrop', size=8, padding=2), dict(type='RandomHorizontalFlip')]
    )
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        results.append(pipeline(random_images(20)))
    assert torch.equal(*results)


@pytest.mark.parametrize(
    'transform, message',
    [
        (dict(type='ColorJitter', hue=0.1), 'ColorJitter does not work on whole batches; these do: .*RandomCrop'),
        (
            dict(type='RandomCrop', size=8, padding_mode='reflect'),
            'RandomCrop on whole batches with .*padding_mode',
        ),
    ],
)
def test_what_batches_can_not_have(transform: dict, message: str):
    with pytest.raises(ValueError, match=message):
        build_batch_pipeline([transform])


def test_unscaled_images_are_not_normalised():
    with pytest.raises(ValueError, match=r'put dict\(type="ToDtype"'):
        build_batch_pipeline([NORMALIZE[2]])(random_images(1))


def test_a_crop_larger_than_the_images():
    with pytest.raises(ValueError, match=r'RandomCrop.size is \(9, 9\)'):
        build_batch_pipeline([dict(type='RandomCrop', size=9)])(random_images(1))
