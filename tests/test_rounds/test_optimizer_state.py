"""What optimizers keep travels with the parameters: late, in several dtypes, as plain numbers; or is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Optimizer

from resist_mm.rounds import Engine, LocalSGD, ResIST
from tests.test_hooks.averages import run_all
from tests.test_rounds.trained import block_of
from tests.toy import ToyModel

WORKERS = 2
TRAVELS = dict(momentum_restart_interval=None)


class PlainSteps(Optimizer):
    """Counts its steps in a plain integer, and keeps a few more numbers."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in (p for group in self.param_groups for p in group['params'] if p.grad is not None):
            state = self.state[p]
            if not state:
                state.update(step=0, mean=torch.zeros_like(p), norm=0.0, begun=False, nothing=None)
            state['step'] += 1
            state['norm'] += 0.25 + dist.get_rank()
            state['begun'] = True
            state['mean'].lerp_(p.grad, 0.1)  # a new holder without a step would raise above


def _step(optimizer: Optimizer, model: nn.Module) -> None:
    for p in model.parameters():
        p.grad = torch.full_like(p, 1.0 + dist.get_rank()) if p.numel() else None
    optimizer.step()


def _late() -> list[float]:
    """The second optimizer takes its first step in the second round."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    early, late = (SGD(layer.parameters(), lr=0.1, momentum=0.9) for layer in model)
    engine = Engine(model, [early, late], LocalSGD(), **TRAVELS)
    engine.run_round(lambda: _step(early, model[0]), 1)
    engine.run_round(lambda: (_step(early, model[0]), _step(late, model[1])), 1, whole=True)
    return [
        o.state[layer.weight]['momentum_buffer'].mean().item()
        for o, layer in ((early, model[0]), (late, model[1]))
    ]


def _plain() -> tuple[dict[str, dict], dict[str, int]]:
    """The state of all parameters when the model is whole, and how many rounds this worker had each block."""
    model = ToyModel()
    optimizer = PlainSteps(model.parameters())
    engine = Engine(model, optimizer, ResIST(min_blocks=3), **TRAVELS)
    for _ in range(4):
        engine.run_round(lambda: _step(optimizer, model), 1)
    engine.make_whole()
    return {name: optimizer.state[p] for name, p in model.named_parameters()}


def _dtypes() -> set[tuple[torch.dtype, torch.dtype]]:
    model = ToyModel()
    for block in list(model.backbone.layer3)[2:]:
        block.to(torch.bfloat16)
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)
    engine = Engine(model, optimizer, ResIST(min_blocks=3), **TRAVELS)
    for _ in range(3):
        engine.run_round(lambda: _step(optimizer, model), 1)
    engine.make_whole()
    _step(optimizer, model)  # torch refuses momentum of another dtype
    return {(p.dtype, optimizer.state[p]['momentum_buffer'].dtype) for p in model.parameters()}


class Listing(SGD):
    """Keeps a list."""

    def step(self, closure: Any = None) -> None:
        super().step(closure)
        for p in self.param_groups[0]['params']:
            self.state[p]['history'] = [1.0]


OTHERS = {'Adafactor': (Adafactor, "'row_var', of shape"), 'Listing': (Listing, "'history', a list")}


def _refused(kind: str) -> list[str]:
    """Worker 1 alone has taken a step with the optimizer that keeps something else; an error comes again."""
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    optimizers = [SGD(model[0].parameters(), lr=0.1, momentum=0.9), OTHERS[kind][0](model[1].parameters(), lr=0.1)]
    engine = Engine(model, optimizers, LocalSGD(), **TRAVELS)
    engine.begin_round()
    _step(optimizers[0], model[0])
    if dist.get_rank() == 1:
        _step(optimizers[1], model[1])
    errors = []
    for _ in range(2):
        with pytest.raises(ValueError) as raised:
            engine.exchange()
        errors.append(str(raised.value))
    return errors


def test_whatever_an_optimizer_keeps():
    calls: list = [(_late, ()), (_plain, ()), (_dtypes, ()), *((_refused, (kind,)) for kind in OTHERS)]
    late, plain, dtypes, *refused = run_all(WORKERS, calls)
    for found in late:
        assert found == pytest.approx([1.5 * 1.9, 1.5]), 'the mean over both workers'
    for name, first in plain[0].items():
        second = plain[1][name]
        assert set(first) >= {'step', 'mean', 'norm', 'begun'}, name
        assert type(first['step']) is int and type(first['norm']) is float and first['begun'] is True, name
        assert {k: first[k] for k in ('step', 'norm')} == {k: second[k] for k in ('step', 'norm')}
        assert torch.equal(first['mean'], second['mean'])
        if block_of(name) is None:
            assert first['step'] == 4 and first['norm'] == pytest.approx(4 * 0.75)
    assert dtypes == [{(d, d) for d in (torch.float32, torch.bfloat16)}] * WORKERS
    for kind, errors_of_workers in zip(OTHERS, refused, strict=True):
        for errors in errors_of_workers:
            for error in errors:
                assert f'worker 1: {kind} keeps {OTHERS[kind][1]}' in error
                assert 'momentum_restart_interval=1' in error


def test_a_tensor_of_one_element_is_judged_by_others() -> None:
    layer = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    engine = Engine(layer, optimizer, LocalSGD(), **TRAVELS)
    engine.begin_round()
    before: dict[str, Tensor] = {k: v.clone() for k, v in optimizer.state[layer.weight].items()}
    engine.exchange()
    assert all(torch.equal(before[k], v) for k, v in optimizer.state[layer.weight].items())
