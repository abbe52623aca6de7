"""Damaged checkpoints, checkpoints that run code, and those of others."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer

from resist_mm.checkpoint import (
    BrokenCheckpoint,
    CheckpointError,
    UntrustedCheckpoint,
    add_digest,
    model_digest,
    read_checkpoint,
    snapshot,
    write_checkpoint,
)


def make_checkpoint() -> dict:
    """In the form of mmengine's."""
    generator = torch.Generator().manual_seed(0)
    state = OrderedDict(weight=torch.randn(30, 5, generator=generator), steps=torch.tensor(3))
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    return dict(
        meta=dict(epoch=1, iter=8, dataset_meta=dict(classes=('a', 'b'), palette=np.arange(6, dtype=np.uint8))),
        state_dict=state,
        message_hub=dict(
            log_scalars=OrderedDict({'train/loss': history}),
            runtime_info=dict(best_score=np.float64(0.5), count=np.int32(3), done=np.bool_(True)),
            resumed_keys={'train/loss': True},
        ),
        optimizer=dict(state={0: dict(momentum_buffer=torch.randn(30, 5, generator=generator))}, param_groups=[]),
    )


@pytest.fixture
def saved(tmp_path) -> Path:
    checkpoint = make_checkpoint()
    add_digest(checkpoint)
    write_checkpoint(checkpoint, tmp_path / 'epoch_1.pth')
    return tmp_path / 'epoch_1.pth'


def same(a: object, b: object) -> bool:
    """Whether two checkpoints are equal bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, HistoryBuffer):
        return isinstance(b, HistoryBuffer) and same(list(a.data), list(b.data))
    if isinstance(a, torch.Tensor | np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    return type(a) is type(b) and a == b


def test_everything_that_mmengine_stores_is_read_without_trust(saved):
    checkpoint = read_checkpoint(saved)
    expected = make_checkpoint()
    add_digest(expected)
    assert same(checkpoint, expected)
    assert checkpoint['message_hub']['log_scalars']['train/loss'].statistics('mean') == 1.5
    write_checkpoint(dict(cfg=ConfigDict(a=dict(b=1))), saved)
    assert read_checkpoint(saved)['cfg'].a.b == 1


def test_a_flipped_bit_is_an_error_or_changes_nothing(saved):
    """Anywhere in the file: some bytes, such as padding, have no meaning."""
    whole, content = read_checkpoint(saved), saved.read_bytes()
    draw, errors = random.Random(0), 0
    for _ in range(150):
        position = draw.randrange(len(content))
        damaged = bytearray(content)
        damaged[position] ^= 1 << draw.randrange(8)
        saved.write_bytes(damaged)
        try:
            assert same(read_checkpoint(saved), whole), f'byte {position} was changed unnoticed'
        except BrokenCheckpoint:
            errors += 1
    assert errors > 50


def test_a_flipped_bit_in_weights_or_optimizer_is_an_error(saved):
    content = saved.read_bytes()
    for tensor in (make_checkpoint()['state_dict']['weight'], make_checkpoint()['optimizer']['state'][0]):
        data = (tensor if isinstance(tensor, torch.Tensor) else tensor['momentum_buffer']).numpy().tobytes()
        at = content.index(data)
        damaged = bytearray(content)
        damaged[at + 17] ^= 4
        saved.write_bytes(damaged)
        with pytest.raises(BrokenCheckpoint, match=r'epoch_1\.pth is (damaged|incomplete)'):
            read_checkpoint(saved, trust=True)


def test_the_digest_finds_what_checksums_cannot(saved):
    checkpoint = torch.load(saved, weights_only=False)
    checkpoint['state_dict']['weight'].view(torch.int32)[3, 2] ^= 1
    torch.save(checkpoint, saved)  # with new checksums
    with pytest.raises(BrokenCheckpoint, match=r"not the one that was saved.*remove 'model_sha256'"):
        read_checkpoint(saved)
    del checkpoint['meta']['model_sha256']
    torch.save(checkpoint, saved)
    read_checkpoint(saved)


@pytest.mark.parametrize('share', [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_an_error(saved, share):
    content = saved.read_bytes()
    saved.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BrokenCheckpoint, match=r'epoch_1\.pth'):
        read_checkpoint(saved)


def test_what_the_digest_covers():
    def digest(**changed) -> str:
        state = dict(weight=torch.tensor([1.0, -0.0]), **changed)
        return model_digest(dict(state_dict=state, optimizer=dict(lr=len(changed))))

    before = digest()
    assert before == digest() == model_digest(dict(state_dict=dict(weight=torch.tensor([1.0, -0.0]))))
    others = [
        digest(weight2=torch.tensor(0)),
        digest(weight2=torch.tensor(0, dtype=torch.int32)),
        digest(weight2=torch.zeros(1, dtype=torch.int64)),
        digest(weight2=torch.zeros(2, 3, dtype=torch.bfloat16)),
        digest(weight2=torch.zeros(3, 2, dtype=torch.bfloat16)),
        digest(weight2=torch.zeros(2, dtype=torch.complex64)),
        digest(weight2=torch.zeros(2).to_sparse()),
        model_digest(dict(state_dict=dict(weight=torch.tensor([1.0, 0.0])))),  # equal, but not the same bits
        model_digest(
            dict(state_dict=dict(weight=torch.tensor([1.0, -0.0])), ema_state_dict=dict(steps=torch.tensor(1)))
        ),
    ]
    assert len({before, *others}) == 1 + len(others)
    grid = torch.arange(6.0).reshape(2, 3)
    assert model_digest(dict(state_dict=dict(a=grid.t()))) == model_digest(
        dict(state_dict=dict(a=grid.t().clone()))
    )


class RunsCode:
    """Pickled as a call of a function that makes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple:
        return exec, (f'open({str(self.target)!r}, "w").close()',)


class LooksUp:
    """Pickled as a look-up of an attribute, which mmengine's list of safe functions allows."""

    def __reduce__(self) -> tuple:
        return getattr, (HistoryBuffer, '__init__')


@pytest.mark.parametrize('legacy', [False, True])
def test_a_checkpoint_that_runs_code_is_refused_and_the_code_not_run(tmp_path, legacy):
    path, target = tmp_path / 'epoch_1.pth', tmp_path / 'made'
    checkpoint = dict(make_checkpoint(), extra=RunsCode(target))
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UntrustedCheckpoint, match=r'GLOBAL exec .*--trust-checkpoint'):
        read_checkpoint(path)
    assert not target.exists()
    assert read_checkpoint(path, trust=True)['extra'] is None
    assert target.exists()


def test_attributes_cannot_be_looked_up(tmp_path):
    torch.save(dict(extra=LooksUp()), tmp_path / 'a.pth')
    with pytest.raises(UntrustedCheckpoint, match='only statistics of HistoryBuffer'):
        read_checkpoint(tmp_path / 'a.pth')


def test_checkpoints_of_others_are_read(tmp_path):
    """In the forms that torchvision and mmdet publish: bare weights, the older format, no optimizer."""
    state = make_checkpoint()['state_dict']
    forms = dict(
        bare=state,
        parameters=OrderedDict((name, torch.nn.Parameter(value.float())) for name, value in state.items()),
        published=dict(
            state_dict=state, meta=dict(make_checkpoint()['meta'], mmdet_version='3.0', CLASSES=('a',))
        ),
        half=OrderedDict(weight=state['weight'].half()),
    )
    for name, form in forms.items():
        for legacy in (False, True):
            torch.save(form, tmp_path / f'{name}.pth', _use_new_zipfile_serialization=not legacy)
            assert same(read_checkpoint(tmp_path / f'{name}.pth', 'cpu'), form), (name, legacy)


def test_a_missing_file_and_one_of_another_kind(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        read_checkpoint(tmp_path / 'a.pth')
    (tmp_path / 'a.pth').write_text('not a checkpoint')
    with pytest.raises(CheckpointError, match='cannot be read') as raised:
        read_checkpoint(tmp_path / 'a.pth')
    assert isinstance(raised.value, BrokenCheckpoint)


def test_a_snapshot_does_not_change_with_what_was_copied():
    weights = torch.zeros(6)
    state = OrderedDict(a=weights[:3], b=weights[3:])
    state._metadata = dict(version=1)
    checkpoint = dict(state_dict=state, optimizer=dict(steps=[torch.tensor(1.0)]), ids=[1])
    copied = snapshot(checkpoint)
    assert same(copied, checkpoint) and copied['state_dict']._metadata == dict(version=1)
    weights += 1
    checkpoint['optimizer']['steps'][0] += 1
    checkpoint['ids'].append(2)
    assert copied['state_dict']['a'].sum() == 0 and copied['optimizer']['steps'][0] == 1 and copied['ids'] == [1]
    pointers = {copied['state_dict'][name].untyped_storage().data_ptr() for name in 'ab'}
    assert len(pointers) == 1, 'views of one tensor became two'
