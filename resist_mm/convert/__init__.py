"""Any config turned into one that trains by ResIST, by local SGD or data-parallel."""

from .arguments import Options, add_arguments, change_config, convert_as_asked
from .convert import Converted, to_ddp, to_local_sgd, to_resist
from .read import read_config

__all__ = [
    'Converted',
    'Options',
    'add_arguments',
    'change_config',
    'convert_as_asked',
    'read_config',
    'to_ddp',
    'to_local_sgd',
    'to_resist',
]
