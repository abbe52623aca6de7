"""The site of documents builds without a warning, and the examples of docstrings run."""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from resist_mm.version import __version__

ROOT = Path(__file__).parents[1]
WITH_EXAMPLES = sorted(
    '.'.join(path.relative_to(ROOT).with_suffix('').parts)
    for path in (ROOT / 'resist_mm').rglob('*.py')
    if '>>>' in path.read_text()
)


@pytest.mark.parametrize('name', WITH_EXAMPLES)
def test_examples_of_docstrings(name: str):
    found = doctest.testmod(import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted > 0 and found.failed == 0


@pytest.mark.skipif(not find_spec('sphinx'), reason='needs sphinx: pip install -e ".[docs]"')
def test_the_site_builds_without_a_warning(tmp_path: Path):
    command = [
        sys.executable,
        '-m',
        'sphinx',
        '-W',
        '--keep-going',
        '-q',
        '--no-color',
        '-b',
        'html',
        'docs',
        str(tmp_path),
    ]
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    for name in ('resist_mm.hooks.ResISTHook', 'resist_mm.rounds.Engine', 'resist_mm.exchange.codec.TopK'):
        assert any(f'id="{name}"' in page.read_text() for page in (tmp_path / 'api').glob('*.html')), name


@pytest.mark.parametrize('page', sorted(ROOT.glob('*.md')), ids=lambda page: page.name)
def test_links_of_the_pages_outside_the_site(page: Path):
    """Those of the site are checked when it is built."""
    for target in re.findall(r'\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)', page.read_text()):
        assert not target or (ROOT / target).exists(), target


def test_the_citation_names_this_version():
    assert f'\nversion: {__version__}\n' in (ROOT / 'CITATION.cff').read_text()
