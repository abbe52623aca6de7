"""Real workers compute and send the same as when the traces were recorded, bit for bit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.golden.cases import CASES
from tests.golden.record import TRACES

ROOT = Path(__file__).parents[2]
RECORDED = json.loads(TRACES.read_text())


@pytest.fixture(scope='session')
def traces(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """The traces of this checkout."""
    target = tmp_path_factory.mktemp('golden') / 'traces.json'
    command = [sys.executable, '-m', 'tests.golden.record', str(target)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(target.read_text())


def test_every_case_is_recorded():
    assert set(RECORDED) == {*CASES, 'arithmetic'}


def test_the_workers_of_a_case_end_with_the_same_whole_model():
    for name, case in CASES.items():
        assert len(RECORDED[name]) == case.workers
        assert len({of_worker['model'] for of_worker in RECORDED[name]}) == 1, name


def test_cases_differ():
    assert len({RECORDED[name][0]['model'] for name in CASES}) == len(CASES), 'an option has no effect'


@pytest.mark.parametrize('name', CASES)
def test_trace(traces: dict, name: str):
    for worker, (found, recorded) in enumerate(zip(traces[name], RECORDED[name], strict=True)):
        assert found['bytes'] == recorded['bytes'], f'worker {worker}'
        if traces['arithmetic'] == RECORDED['arithmetic']:
            assert found == recorded, f'worker {worker}'
        else:  # a processor whose last bits differ
            losses = [[float.fromhex(loss) for loss in trace['losses']] for trace in (found, recorded)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-3), f'worker {worker}'
