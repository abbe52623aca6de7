"""Every analysis command starts from a clone, from wherever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_tools.commands import ROOT

COMMANDS = sorted((ROOT / 'tools/analysis_tools').glob('*.py'))
FIND = 'import runpy, sys; runpy.run_path(sys.argv[1]); print(sys.modules["resist_mm"].__file__)'


@pytest.mark.parametrize('command', COMMANDS, ids=lambda path: path.stem)
def test_the_package_comes_from_the_clone(command: Path, tmp_path: Path):
    # isolated: neither PYTHONPATH nor the working directory shows where the package is
    call = [sys.executable, '-I', '-c', FIND, str(command)]
    out = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == str(ROOT / 'resist_mm/__init__.py')
