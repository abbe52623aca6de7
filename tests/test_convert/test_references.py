"""Values that a config sets once and uses in many places."""

from __future__ import annotations

import re
from inspect import getsource, signature
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from resist_mm.convert import read_config, resolve_references
from resist_mm.convert.read import READ
from tests.test_tools.commands import ROOT

BASE = """
size = (4, 4)
root = 'data'
names = ()
count = '${len(names)}'
steps = [dict(scale='${size}')]
loader = dict(file='${root}/${part.name}.txt', steps=steps, head=dict(count='${count}'))
part = dict(name='train')
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / 'base.py').write_text(BASE)
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'\nnames = ('a', 'b')\nroot = 'other'\n")
    return tmp_path / 'mine.py'


def test_what_a_child_sets_reaches_what_its_base_has_computed(config: Path):
    cfg = read_config(config)
    assert cfg.loader.file == 'other/train.txt'
    assert cfg.loader.head.count == cfg.count == 2
    assert cfg.loader.steps[0].scale == (4, 4)
    assert '$' not in cfg.pretty_text


def test_so_does_the_command_line(config: Path):
    cfg = read_config(config, {'size': (8, 6), 'part.name': 'val', 'loader.head.count': 7})
    assert cfg.loader.steps[0].scale == cfg.steps[0].scale == (8, 6)
    assert (cfg.loader.file, cfg.loader.head.count, cfg.count) == ('other/val.txt', 7, 2)


def test_places_do_not_share_a_list():
    cfg = Config(dict(sizes=[1, 2], a='${sizes}', b='${ sizes }'))
    resolve_references(cfg)
    cfg.a.append(3)
    assert (cfg.sizes, cfg.b) == ([1, 2], [1, 2])


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'names': ()}, r'names is empty: set it in your config'),
        ({'names': 'cat'}, r"names must be a list or tuple, got 'cat': .* with a comma behind a single one"),
        ({'root': '${rot}'}, r'refers to \$\{rot\}, but the config does not set rot'),
        ({'root': '${root}'}, r'refers to itself: root -> root'),
        ({'root': (1, 2)}, r'loader\.file is .*, but \$\{root\} is no text or number: it is \(1, 2\)'),
    ],
)
def test_mistakes_name_the_key_and_the_file(config: Path, options: dict, message: str):
    with pytest.raises(ValueError, match=rf'mine\.py: .*{message}|mine\.py: {message}'):
        read_config(config, options)


@pytest.mark.parametrize('key', ['image_size', 'image_size.0', 'test_pipeline.1.scale'])
def test_a_variable_that_was_used_when_the_file_was_read_cannot_be_changed(key: str):
    message = rf'{key.split(".")[0]} is a variable .* setting {key} would change nothing\. Set .*val_dataloader\.'
    with pytest.raises(ValueError, match=message):
        read_config(ROOT / 'configs/yolo_resist_voc.py', {'train_cfg.max_epochs': 3, key: 224})


@pytest.mark.parametrize(
    'text',
    [
        "key = (1, 2)\nused = dict(size='${ key }')\nmodel = dict(size='${used.size}', other=(1, 2))",
        "key = ('a', 'b')\nmodel = dict(classes=('a', 'b'), number='${len(key)}')",
        'key = 10\nmodel = dict(depth=10)',  # perhaps by chance
        'key = []\nmodel = dict(out=[])',
        "sync_bn = 'a/b'\nkey = 'c/d'\nmodel = dict(init='a/b')",
    ],
)
def test_what_is_read_or_equal_by_chance_can_be_changed(text: str, tmp_path: Path):
    (tmp_path / 'mine.py').write_text(text)
    options = {'key': (3, 4)} | ({'sync_bn': 'mmcv'} if 'sync_bn' in text else {})
    assert read_config(tmp_path / 'mine.py', options).key == (3, 4)


def test_a_variable_can_be_changed_with_all_its_copies(tmp_path: Path):
    (tmp_path / 'mine.py').write_text('size = (1, 2)\nmodel = dict(a=size, b=dict(c=size))')
    with pytest.raises(ValueError, match=r'Set model\.b\.c instead'):
        read_config(tmp_path / 'mine.py', {'size': (3, 4), 'model.a': (3, 4)})
    cfg = read_config(tmp_path / 'mine.py', {'size': (3, 4), 'model.a': (3, 4), 'model.b.c': (3, 4)})
    assert cfg.model.to_dict() == {'a': (3, 4), 'b': {'c': (3, 4)}}


def test_keys_that_the_runner_reads_are_known():
    found = set(signature(Runner.__init__).parameters) - {'self'}
    found |= set(re.findall(r"""(?:self\.)?cfg\.get\(\s*['"](\w+)['"]""", getsource(Runner.from_cfg)))
    assert len(found) > 25 and found <= READ


def test_types_inherited_by_package_are_those_of_the_default_scope(tmp_path: Path):
    pytest.importorskip('mmdet')
    (tmp_path / 'mine.py').write_text(
        "_base_ = 'resist_mm::_base_/datasets/custom_voc.py'\nclasses = ('a',)\ndata_root = 'x'\n"
    )
    cfg = read_config(tmp_path / 'mine.py', {'image_size': 96})
    assert '_scope_' not in cfg.train_dataloader.dataset  # mmengine would look for XMLDataset in resist_mm alone
    assert (cfg.train_dataloader.dataset.type, cfg.num_classes) == ('XMLDataset', 1)
    assert [cfg[f'{part}_dataloader'].dataset.data_root for part in ('train', 'val', 'test')] == ['x'] * 3
