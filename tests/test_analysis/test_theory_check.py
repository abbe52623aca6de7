"""Theorem 3.1 on tiny cases: the loss falls geometrically, and a wide network falls lower."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resist_mm.analysis import theory, theory_check


def test_the_fit_finds_rate_and_floor():
    rounds = torch.arange(120, dtype=torch.double)
    fit = theory.fit_decay(5 * 0.8**rounds + 0.01)
    assert fit.factor == pytest.approx(0.8, abs=0.005)
    assert fit.floor == pytest.approx(0.01, rel=1e-3)


def test_the_loss_falls_geometrically_and_a_wider_net_falls_lower():
    fits = {}
    for width in (2, 16):
        losses = theory.run_resist(theory.Setting(width=width, depth=5, rounds=80))
        fits[width] = theory.fit_decay(losses)
    assert fits[16].factor < 0.9, 'no linear convergence'
    assert fits[16].floor < 0.01 * losses[0]
    assert fits[16].floor < 0.1 * fits[2].floor
    # geometric: the logarithm of the loss above the floor is a straight line until it gets there
    above = losses[:20].log()
    assert torch.corrcoef(torch.stack([above, torch.arange(20.0)]))[0, 1] < -0.95


def test_one_worker_is_gradient_descent():
    """No layer is masked, so the loss of the whole network itself falls, step by step."""
    losses = theory.run_resist(
        theory.Setting(width=16, workers=1, local_steps=1, depth=4, rounds=20, step_size=0.05)
    )
    assert (losses.diff() < 0).all()


def test_a_worker_changes_its_own_layers_alone():
    setting = theory.Setting(width=4, depth=5, rounds=1)
    generator = torch.Generator().manual_seed(0)
    inputs, targets = theory._data(setting, generator)
    weights = theory._initial_weights(setting, generator)
    mask = torch.tensor([1.0, 1, 0, 1, 1], dtype=torch.double)
    trained = theory._train(weights, mask, inputs, targets, setting)
    assert [torch.equal(a, b) for a, b in zip(weights, trained, strict=True)] == [False, False, True] + [False] * 3


def test_a_net_without_inner_layers_is_refused():
    with pytest.raises(ValueError, match='depth must be at least 3, got 2'):
        theory.Setting(depth=2)


def test_the_command_prints_and_draws(tmp_path: Path, monkeypatch, capsys):
    pytest.importorskip('matplotlib')
    picture = tmp_path / 'theory.png'
    sweep = ['--width', '4', '--workers', '2', '--local-steps', '2', '--depth', '4', '--rounds', '10']
    monkeypatch.setattr('sys.argv', ['theory_check.py', *sweep, '--out', str(picture)])
    theory_check.main()
    out = capsys.readouterr().out
    assert [name for name in ('width', 'workers', 'local_steps', 'depth') if f'\n{name}' in out] == [
        'width',
        'workers',
        'local_steps',
        'depth',
    ]
    assert picture.stat().st_size > 1000
