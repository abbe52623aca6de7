"""One job in a folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from resist_mm.checkpoint import WorkDirInUse, lock, lock_folder


@pytest.fixture
def released():
    """Nothing is held before and after."""
    held, lock._held = lock._held, {}
    yield
    for file in lock._held.values():
        file.close()
    lock._held = held


def _hold(folder: Path, conversation: Any) -> None:
    lock_folder(folder)
    conversation.send(os.fork() or 'child')  # a loader process, which outlives this one
    conversation.recv()


@pytest.fixture
def holder(tmp_path, released):
    context = multiprocessing.get_context('forkserver')
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, there))
    process.start()
    children = [message for message in (here.recv(), here.recv()) if message != 'child']
    yield process
    process.kill()
    for child in children:
        os.kill(child, signal.SIGKILL)


def test_a_second_job_is_refused_until_the_first_has_ended_however_it_ends(tmp_path, holder):
    with pytest.raises(WorkDirInUse, match=rf'is in use by process {holder.pid} on .*--work-dir'):
        lock_folder(tmp_path)
    holder.kill()
    holder.join()
    assert lock_folder(tmp_path) is None  # although the loader process lives
    assert lock_folder(tmp_path / '.') is None, 'the same process may claim it again'


def test_a_file_system_without_locks(tmp_path, monkeypatch, released):
    def flock(*args: Any) -> None:
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(lock.fcntl, 'flock', flock)
    problem = lock_folder(tmp_path)
    assert problem is not None and 'cannot be locked (No locks available)' in problem
