"""Memory that gradients had, measured in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LARGE, PIECES = 64 << 20, 128
# the pieces are gradients; what is kept between them, such as momentum, keeps their memory in glibc's heap
SCRIPT = f"""
import resource, sys
import torch
from pathlib import Path
from resist_mm.exchange.memory import empty_flat, return_freed_memory

def resident():
    return int(Path('/proc/self/statm').read_text().split()[1]) * resource.getpagesize()

cpu = torch.device('cpu')
torch.ones({16 << 20}, dtype=torch.uint8)  # from here on glibc takes what is smaller from its heap
pieces, kept = [], []
for _ in range({PIECES}):
    pieces.append(torch.ones({LARGE // PIECES}, dtype=torch.uint8))
    kept.append(torch.ones({256 << 10}, dtype=torch.uint8))
before = resident()
pieces.clear()
if sys.argv[1] == 'returned':
    return_freed_memory(cpu)
room = empty_flat({LARGE}, torch.uint8, cpu).fill_(1)
print(resident() - before)
"""


def growth(how: str) -> int:
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    env = {name: value for name, value in env.items() if not name.startswith('MALLOC_')}
    command = [sys.executable, '-c', SCRIPT, how]
    return int(subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(
    sys.platform != 'linux' or 'CS_GNU_LIBC_VERSION' not in os.confstr_names, reason='needs glibc, on Linux'
)
def test_staging_takes_the_memory_that_gradients_had():
    assert growth('returned') < LARGE / 4
    # without it a worker would need the memory twice
    assert growth('kept') > LARGE / 4
