"""The examples run, and the engine needs nothing of OpenMMLab."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# modules that are None cannot be imported
ALONE = (
    'import runpy, sys; sys.modules.update(mmengine=None, mmcv=None, mmdet=None); '
    "runpy.run_path('examples/plain_torch.py', run_name='__main__')"
)


def test_a_plain_pytorch_loop_trains_in_rounds_where_mmengine_is_not_installed():
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node',
        '2',
        '--no-python',
    ]
    result = subprocess.run(
        [*command, sys.executable, '-c', ALONE],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1'},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    sent = re.findall(r'round (\d+), worker (\d+): sent ([\d.]+) MB', result.stdout)
    assert sorted((int(r), int(w)) for r, w, _ in sent) == [(r, w) for r in range(6) for w in range(2)]
    assert all(float(mb) > 0 for *_, mb in sent)
    accuracies = re.findall(r'worker (\d+): accuracy of the whole model ([\d.]+)', result.stdout)
    assert sorted(worker for worker, _ in accuracies) == ['0', '1']
    assert len({accuracy for _, accuracy in accuracies}) == 1
    assert float(accuracies[0][1]) > 0.9


def test_the_notebook_runs_from_top_to_bottom(capsys: pytest.CaptureFixture):
    cells = json.loads((ROOT / 'examples/resist.ipynb').read_text())['cells']
    names: dict = {}
    for cell in cells:
        if cell['cell_type'] == 'code':
            assert not cell['outputs'], 'kept without outputs, so that they cannot be out of date'
            exec(''.join(cell['source']), names)
    out = capsys.readouterr().out
    assert '9 blocks of stage 3 are partitioned' in out
    assert names['engine'].round == 2 and names['engine'].in_sync and names['losses'][-1] < names['losses'][0]
