"""What docs/any_config.md shows is what comes out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resist_mm.convert import to_resist
from tests.test_tools.commands import run_tool

pytest.importorskip('mmdet')

PAGE = (Path(__file__).parents[2] / 'docs/any_config.md').read_text()
BLOCKS = re.findall(r'```\w*\n(.*?)```', PAGE, re.DOTALL)


def test_the_log():
    _, changes = to_resist('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', workers=4)
    (shown,) = (block for block in BLOCKS if block.startswith('Changed config'))
    assert shown.splitlines() == [f'Changed config: {change}' for change in changes]


def test_the_list_of_stages():
    (shown,) = (block for block in BLOCKS if block.startswith('$ python tools/analysis_tools/list_stages.py'))
    command, *lines = shown.splitlines()
    out = run_tool('analysis_tools/list_stages.py', command.split()[-1])
    assert out[out.index('path ') :].splitlines() == lines


def test_the_python(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (block for block in BLOCKS if block.startswith('from resist_mm'))
    exec(code, {})
    assert 'resist_mm.Partitioned' in (tmp_path / 'retinanet_r101_resist.py').read_text()
