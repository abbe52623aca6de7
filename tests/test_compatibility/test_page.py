"""docs/compatibility.md is what tests.test_compatibility.table writes: its head, and a row for each config."""

from __future__ import annotations

import re

import pytest

from tests.test_compatibility.cases import CONFIGS
from tests.test_compatibility.steps import STEPS
from tests.test_compatibility.table import HEAD, PAGE, _link, _stages

TEXT = PAGE.read_text()
ROWS = re.findall(r'^\| \[(.*?)\]\((.*?)\) \| (.*) \|$', TEXT, re.MULTILINE)
of_all = pytest.mark.skipif(len(ROWS) <= 1, reason='the page has one row: it is still to be generated')


@of_all
def test_the_head():
    fields = dict(size='96 x 96', images=8, versions='VERSIONS', steps=' | '.join(STEPS))
    head = HEAD.format(**fields, lines='|'.join('---' for _ in STEPS))
    before, after = head.split('VERSIONS')
    assert TEXT.startswith(before)
    assert after in TEXT


@of_all
def test_the_rows():
    assert [(name, link) for name, link, _ in ROWS] == [(name, _link(name)) for name in CONFIGS]


def test_the_cells():
    notes = re.findall(r'^(\d+)\. ', TEXT, re.MULTILINE)
    for name, _, cells in ROWS:
        stages, *results = cells.split(' | ')
        assert len(results) == len(STEPS), name
        assert re.fullmatch(r'(`backbone\.[\w.]+(\[\d*:\d*\])?`(, )?)*', stages.strip()), name
        for result in results:
            found = re.fullmatch(r'works|-|(?:no|refused) \((\d+)\)', result)
            assert found, f'{name}: {result}'
            assert found[1] is None or found[1] in notes, f'{name}: {result}'


def test_only_paths_are_stages():
    changes = 'stages: backbone.stages.2.blocks[:], has 6 stages: the backbone has no more'
    assert _stages(dict(stages=changes)) == '`backbone.stages.2.blocks[:]`'
