"""mmengine's loader, once it is told to run no code."""

from __future__ import annotations

import pytest
import torch
from mmengine.runner.checkpoint import CheckpointLoader

from resist_mm.checkpoint import UntrustedCheckpoint, loading, read_checkpoint, write_checkpoint

from .test_reading import RunsCode, make_checkpoint, same


@pytest.fixture
def loader():
    """mmengine's loader, as it was before afterwards."""
    schemes, environment = dict(CheckpointLoader._schemes), dict(loading._state)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv(loading.FORCE_SAFE, '0')  # is restored, whatever is set
        yield monkeypatch
    CheckpointLoader._schemes = schemes
    loading._state.clear()
    loading._state.update(environment)


def test_mmengine_refuses_too_once_told_to(tmp_path, loader):
    path, target = tmp_path / 'a.pth', tmp_path / 'made'
    torch.save(dict(extra=RunsCode(target)), path)
    loading.load_safely()
    with pytest.raises(UntrustedCheckpoint):
        CheckpointLoader.load_checkpoint(str(path), 'cpu', logger=None)
    # what mmengine reads in other ways, such as downloads
    with pytest.raises(Exception, match='Weights only load failed'):
        torch.load(path, weights_only=False)
    assert not target.exists()
    loading.load_safely(trust=True)
    assert CheckpointLoader.load_checkpoint(str(path), 'cpu', logger=None) == dict(extra=None)
    assert target.exists()


def test_a_download_is_refused_with_the_same_advice(tmp_path, loader):
    saved, unsafe, target = tmp_path / 'epoch_1.pth', tmp_path / 'a.pth', tmp_path / 'made'
    write_checkpoint(make_checkpoint(), saved)
    torch.save(dict(extra=RunsCode(target)), unsafe)
    loading.load_safely()
    downloaded = [saved, unsafe]
    loader.setattr('mmengine.runner.checkpoint.load_url', lambda *_, **__: torch.load(downloaded.pop(0)))
    found = CheckpointLoader.load_checkpoint('https://nowhere/epoch_1.pth', logger=None)
    assert same(found, read_checkpoint(saved))
    with pytest.raises(UntrustedCheckpoint, match=r'https://nowhere/a\.pth can run code.*--trust-checkpoint'):
        CheckpointLoader.load_checkpoint('https://nowhere/a.pth', logger=None)
    assert not target.exists()
