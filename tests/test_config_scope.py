"""``_base_ = 'resist_mm::...'`` in a config elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

INHERIT = """
cfg = Config.fromfile('config.py')
print(cfg.custom_hooks[0].type, cfg.custom_hooks[0].local_iters)
"""


@pytest.mark.parametrize('first, second', [('mmengine.config', 'resist_mm'), ('resist_mm', 'mmengine.config')])
def test_a_config_elsewhere_inherits(first: str, second: str, tmp_path: Path):
    (tmp_path / 'config.py').write_text(
        "_base_ = 'resist_mm::_base_/protocols/resist.py'\ncustom_hooks = [dict(type='resist_mm.ResISTHook')]\n"
        'custom_hooks[0].update(local_iters=7)\n'
    )
    script = f'import {first}, {second}\nfrom mmengine.config import Config\n{INHERIT}'
    done = subprocess.run(
        [sys.executable, '-c', script],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout == 'resist_mm.ResISTHook 7\n', done.stderr
