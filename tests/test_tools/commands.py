"""Runs the scripts of tools/ as a user does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIMEOUT_SEC = 900


def run_tool(script: str, *args: object, **environment: str) -> str:
    """Run a script with this interpreter first on PATH; return its output, fail with it."""
    result = start_tool(script, *args, **environment)
    assert result.returncode == 0, result.stdout[-8000:]
    return result.stdout


def start_tool(script: str, *args: object, **environment: str) -> subprocess.CompletedProcess:
    """Run a script; it may fail."""
    command = [str(ROOT / 'tools' / script), *map(str, args)]
    if script.endswith('.py'):
        command.insert(0, sys.executable)
    env = {
        **os.environ,
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'VIRTUAL_ENV': sys.prefix,
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
        'CUDA_VISIBLE_DEVICES': '',
        **environment,
    }
    return subprocess.run(
        command,
        cwd=ROOT,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_SEC,
        check=False,
    )


def rounds_of(log: str) -> list[int]:
    """The indices of the rounds that a log reports, in order."""
    return [int(index) for index in re.findall(r'Round (\d+): depth', log)]
