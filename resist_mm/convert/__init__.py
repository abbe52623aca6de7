"""Any config turned into one that trains by ResIST, by local SGD or data-parallel."""

from .arguments import Options, add_arguments, convert_as_asked
from .convert import Converted, to_ddp, to_local_sgd, to_resist
from .read import change_config, read_config
from .references import resolve_references

__all__ = [
    'Converted',
    'Options',
    'add_arguments',
    'change_config',
    'convert_as_asked',
    'read_config',
    'resolve_references',
    'to_ddp',
    'to_local_sgd',
    'to_resist',
]
