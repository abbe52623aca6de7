"""Data sets. What is here can be imported without mmdet."""

from .cifar import CIFAR10, CIFAR100
from .collate import collate
from .image_folders import ImageFolder, ImageNet, ImageNetV2
from .image_set import ImageSet
from .shapes_voc import METAINFO as SHAPES_METAINFO
from .shapes_voc import make_shapes_voc
from .transforms import build_pipeline

__all__ = [
    'CIFAR10',
    'CIFAR100',
    'SHAPES_METAINFO',
    'ImageFolder',
    'ImageNet',
    'ImageNetV2',
    'ImageSet',
    'build_pipeline',
    'collate',
    'make_shapes_voc',
]
