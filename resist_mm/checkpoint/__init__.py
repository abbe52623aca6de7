"""Checkpoints as files: written whole or not at all, verified when they are read; no Runner."""

from .background import WriteQueue
from .digest import DIGEST_KEY, add_digest, model_digest
from .files import remove_leftovers, write_atomically, write_checkpoint, write_text
from .loading import load_safely, read_from_anywhere, verify_local_files
from .lock import WorkDirInUse, lock_folder
from .newest import newest_whole
from .reading import BrokenCheckpoint, CheckpointError, UntrustedCheckpoint, read_checkpoint
from .snapshot import snapshot

__all__ = [
    'DIGEST_KEY',
    'BrokenCheckpoint',
    'CheckpointError',
    'UntrustedCheckpoint',
    'WorkDirInUse',
    'WriteQueue',
    'add_digest',
    'load_safely',
    'lock_folder',
    'model_digest',
    'newest_whole',
    'read_checkpoint',
    'read_from_anywhere',
    'remove_leftovers',
    'snapshot',
    'verify_local_files',
    'write_atomically',
    'write_checkpoint',
    'write_text',
]
