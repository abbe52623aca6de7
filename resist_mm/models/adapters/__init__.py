"""Adapters for residual blocks, one file for each kind."""

from . import convnext, csp, inverted_residual, preact, regnet, resnet, transformer
from .adapter import BlockAdapter, adapter_of, first_input, register_adapter

__all__ = [
    'BlockAdapter',
    'adapter_of',
    'convnext',
    'csp',
    'first_input',
    'inverted_residual',
    'preact',
    'register_adapter',
    'regnet',
    'resnet',
    'transformer',
]
