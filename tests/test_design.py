"""The code in docs/design.md runs, in one process and in several workers."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from resist_mm.registry import CODECS, PROTOCOLS
from tests.workers import run_workers

PAGE = Path(__file__).parents[1] / 'docs/design.md'


def _run() -> dict:
    for registry, name in ((PROTOCOLS, 'SlowMomentum'), (CODECS, 'Float8')):
        registry.module_dict.pop(name, None)
    namespace: dict = {}
    exec('\n'.join(re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)), namespace)
    return namespace


def _results() -> tuple[list, list, float, dict]:
    found = _run()
    engine, trained = found['engine'], found['trained']
    assert engine.in_sync and engine.round == 4
    protocol = engine.protocol
    saved = protocol.state_dict()
    protocol.velocity = {}
    protocol.load_state_dict(saved)
    velocity = [protocol.velocity[part] for part in engine.parts.all]
    return [p.detach() for p in engine.parts.model.parameters()], velocity, found['traffic'].total, trained.counts


def test_the_examples_run_in_one_process():
    weights, velocity, total, counts = _results()
    assert all(w.isfinite().all() for w in weights) and total == 0
    assert any(v.abs().sum() > 0 for v in velocity)
    assert [count.item() for count in counts.values()] == [12.0]


def test_the_examples_run_in_two_workers_that_agree():
    first, second = run_workers(_numbers, 2)
    for one, other in zip(first[0] + first[1], second[0] + second[1], strict=True):
        assert torch.equal(one, other)
    assert first[2] == second[2] > 0
    assert first[3] == second[3] == [12.0]


def _numbers() -> tuple:
    weights, velocity, total, counts = _results()
    return weights, velocity, total, [count.item() for count in counts.values()]
