"""A run that is resumed with --resist or --local-sgd goes on with its own stages and options."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from resist_mm.checkpoint import BrokenCheckpoint
from resist_mm.convert import convert_as_asked, read_config, to_local_sgd, to_resist
from resist_mm.convert.literals import settings_of
from tests.test_convert.test_convert import classifier, parse


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of two workers with options of its own; more workers go on with it."""
    classifier().dump(tmp_path / 'mine.py')
    (tmp_path / 'run').mkdir()
    monkeypatch.setenv('WORLD_SIZE', '8')
    return tmp_path / 'run'


def save(cfg: Config, path: Path) -> None:
    torch.save(dict(meta=dict(cfg=cfg.pretty_text), state_dict={}, message_hub={}), path)


def converted(run: Path, *words: str) -> tuple[Config, list[str]]:
    return convert_as_asked(read_config(run.parent / 'mine.py'), parse(*words), str(run.parent / 'another'))


def test_the_options_in_a_checkpoint_are_kept(run: Path):
    before, _ = to_resist(classifier(), workers=2, local_iters=7, codec=dict(type='quantize', bits=6))
    save(before, run / 'iter_4.pth')
    cfg, changes = converted(run, '--resist', '--resume', str(run / 'iter_4.pth'))
    assert cfg.model == before.model
    assert cfg.custom_hooks == before.custom_hooks
    assert changes[0] == (
        f"kept from the run that is resumed ({run / 'iter_4.pth'}): stages=['backbone.layer3'], min_blocks=1, "
        "local_iters=7, codec={'bits': 6, 'type': 'quantize'}"
    )
    alone, _ = converted(run, '--resist')
    assert alone.model.backbone.stages != ['layer3'], 'otherwise this proves nothing'


def test_what_is_asked_for_comes_first_and_the_log_says_what_it_was(run: Path):
    save(to_resist(classifier(), workers=2, local_iters=7, min_blocks=3)[0], run / 'iter_4.pth')
    resume = ('--resume', str(run / 'iter_4.pth'))
    cfg, changes = converted(run, '--resist', 'local_iters=9', 'stages=backbone.layer3', *resume)
    assert (cfg.custom_hooks[-1].local_iters, cfg.custom_hooks[-1].min_blocks) == (9, 3)
    assert changes[1] == 'local_iters: 9, as asked; the run that is resumed had 7'
    assert not changes[2].startswith('stages: [')
    cfg, changes = converted(run, '--resist', 'stages=backbone.layer2,backbone.layer3', *resume)
    assert cfg.custom_hooks[-1].min_blocks == 2, 'the old one belonged to the old stages'
    assert any(change.endswith("the run that is resumed had ['backbone.layer3']") for change in changes)


@pytest.mark.parametrize('resume', [['iter_4.pth'], []])
def test_the_config_beside_a_checkpoint_that_does_not_tell(run: Path, resume: list[str]):
    before, _ = to_local_sgd(classifier(), local_iters=7)
    before.dump(run / 'mine.py')
    torch.save(dict(state_dict={}), run / 'iter_4.pth')
    args = parse('--local-sgd', '--resume', *(str(run / name) for name in resume))
    cfg, changes = convert_as_asked(read_config(run.parent / 'mine.py'), args, str(run))
    assert cfg.custom_hooks[-1] == before.custom_hooks[-1]
    assert changes[0] == f'kept from the run that is resumed ({run / "mine.py"}): local_iters=7'


def test_without_a_config_in_the_work_dir_the_newest_checkpoint_tells(run: Path):
    save(to_resist(classifier(), workers=2, local_iters=7)[0], run / 'iter_4.pth')
    cfg, _ = convert_as_asked(read_config(run.parent / 'mine.py'), parse('--resist', '--resume'), str(run))
    assert cfg.custom_hooks[-1].local_iters == 7


def test_options_of_another_protocol_and_a_run_that_tells_nothing(run: Path):
    save(to_resist(classifier(), workers=2, local_iters=7)[0], run / 'iter_4.pth')
    cfg, _ = converted(run, '--local-sgd', '--resume', str(run / 'iter_4.pth'))
    assert cfg.custom_hooks[-1] == dict(type='resist_mm.LocalSGDHook', local_iters=50)
    torch.save(dict(state_dict={}), run / 'bare.pth')
    _, changes = converted(run, '--resist', '--resume', str(run / 'bare.pth'))
    assert changes[0].startswith('nothing is known of the run that is resumed')
    (run / 'broken.pth').write_bytes((run / 'iter_4.pth').read_bytes()[:500])
    with pytest.raises(BrokenCheckpoint, match=r'broken\.pth'):
        converted(run, '--resist', '--resume', str(run / 'broken.pth'))


def test_settings_are_read_without_running_them(tmp_path: Path):
    ran = tmp_path / 'ran'
    text = (
        f"a = __import__('pathlib').Path({str(ran)!r}).touch()\n"
        "model = dict(type='A', b=[1, (2.5, None)], c={'d': True, 'e': -1}, f=some.Type)\n"
    )
    settings = settings_of(text)
    assert settings['model'] == dict(type='A', b=[1, (2.5, None)], c=dict(d=True, e=-1), f='some.Type')
    assert not ran.exists()
    assert settings_of('model = dict(') == {}
    cfg, _ = to_resist(classifier(), workers=2)
    assert settings_of(cfg.pretty_text) == cfg.to_dict()
