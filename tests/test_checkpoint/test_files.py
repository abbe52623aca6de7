"""Files that are whole or not there, and a disk that is full."""

from __future__ import annotations

import errno
import multiprocessing
import resource
import signal
from pathlib import Path

import pytest
import torch

from resist_mm.checkpoint import remove_leftovers, write_atomically, write_checkpoint, write_text

BEFORE = dict(state_dict=dict(weight=torch.zeros(3)))
LARGE = dict(state_dict=dict(weight=torch.ones(100_000)))


def _unchanged(path: Path) -> bool:
    alone = [file.name for file in path.parent.iterdir()] == [path.name]
    return alone and torch.equal(torch.load(path)['state_dict']['weight'], torch.zeros(3))


def test_a_file_is_written_with_its_folder_and_replaced(tmp_path):
    path = tmp_path / 'new/folder/last_checkpoint'
    write_text('epoch_1.pth', path)
    write_text('epoch_2.pth', path)
    assert path.read_text() == 'epoch_2.pth'
    assert [file.name for file in path.parent.iterdir()] == ['last_checkpoint']
    assert write_checkpoint(LARGE, tmp_path / 'a.pth') == (tmp_path / 'a.pth').stat().st_size > 400_000


@pytest.mark.parametrize('failing', ['write', 'fsync', 'replace'])
def test_an_error_at_any_step_leaves_the_old_file_alone(tmp_path, monkeypatch, failing):
    path = tmp_path / 'epoch_1.pth'
    write_checkpoint(BEFORE, path)

    def fail(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    if failing == 'write':
        with pytest.raises(OSError, match=r'epoch_1\.pth cannot be written \(No space left on device\)'):
            write_atomically(path, fail)
    else:
        monkeypatch.setattr(f'resist_mm.checkpoint.files.os.{failing}', fail)
        with pytest.raises(OSError, match='untouched') as raised:
            write_checkpoint(LARGE, path)
        assert raised.value.errno == errno.ENOSPC
    assert _unchanged(path)


def _write_beyond_the_limit(path: Path, results) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        write_checkpoint(LARGE, path)
    except OSError as error:
        results.put((error.errno, str(error)))


def test_a_file_system_that_takes_no_more_while_torch_writes(tmp_path):
    """With a limit on file sizes, which fails in the middle of ``torch.save`` as a full disk does."""
    path = tmp_path / 'epoch_1.pth'
    write_checkpoint(BEFORE, path)
    context = multiprocessing.get_context('forkserver')
    results = context.Queue()
    process = context.Process(target=_write_beyond_the_limit, args=(path, results))
    process.start()
    number, message = results.get(timeout=100)
    process.join()
    assert (number, process.exitcode) == (errno.EFBIG, 0)
    assert 'epoch_1.pth cannot be written (File too large)' in message
    assert _unchanged(path)


def test_what_is_not_an_error_of_the_file_system_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    write_checkpoint(BEFORE, path)
    with pytest.raises(Exception, match='pickle'):
        write_checkpoint(dict(state_dict=lambda: None), path)
    assert _unchanged(path)


def test_only_leftovers_of_killed_writers_are_removed(tmp_path):
    for name in ('epoch_1.pth', 'epoch_2.pth.123.tmp', 'notes.tmp'):
        (tmp_path / name).touch()
    assert [path.name for path in remove_leftovers(tmp_path)] == ['epoch_2.pth.123.tmp']
    assert sorted(path.name for path in tmp_path.iterdir()) == ['epoch_1.pth', 'notes.tmp']
