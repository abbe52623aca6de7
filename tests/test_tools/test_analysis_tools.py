"""Every analysis command starts from a clone, from wherever it is called."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.test_tools.commands import ROOT

COMMANDS = sorted((ROOT / 'tools/analysis_tools').glob('*.py'))
# a process for each command, forked from one that has imported what takes long
FIND = """
import os, runpy, sys
import mmengine.runner, torch
for command in sys.argv[1:]:
    if os.fork() == 0:
        runpy.run_path(command)
        print('found', sys.modules['resist_mm'].__file__, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, command
"""


def test_the_package_comes_from_the_clone(tmp_path: Path):
    # isolated: neither PYTHONPATH nor the working directory shows where the package is
    call = [sys.executable, '-I', '-c', FIND, *map(str, COMMANDS)]
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith('found')]
    assert found == [f'found {ROOT / "resist_mm/__init__.py"}'] * len(COMMANDS)
